from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.cpus import cpu_quota, usable_cpus

HERE = len(os.sched_getaffinity(0))


def tree(root: Path, groups: str, **files: str) -> Path:
    """A fake root: /proc/self/cgroup, and files below /sys/fs/cgroup by path (`__` for `/`)."""
    (root / "proc" / "self").mkdir(parents=True, exist_ok=True)
    (root / "proc" / "self" / "cgroup").write_text(groups)
    for name, text in files.items():
        file = root / "sys" / "fs" / "cgroup" / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def v1(quota: int, period: int = 100_000) -> dict[str, str]:
    return {"cpu.cfs_quota_us": f"{quota}\n", "cpu.cfs_period_us": f"{period}\n"}


def below(directory: str, files: dict[str, str]) -> dict[str, str]:
    return {f"{directory}__{name}": text for name, text in files.items()}


def test_version_2_in_a_container(tmp_path: Path) -> None:
    assert cpu_quota(tree(tmp_path, "0::/\n", **{"cpu.max": "150000 100000\n"})) == 1.5


def test_version_2_without_a_limit(tmp_path: Path) -> None:
    assert cpu_quota(tree(tmp_path, "0::/\n", **{"cpu.max": "max 100000\n"})) is None


def test_the_tightest_group_on_the_way_up_counts(tmp_path: Path) -> None:
    files = {"a__b__cpu.max": "max 100000", "a__cpu.max": "50000 100000", "cpu.max": "400000 100000"}
    assert cpu_quota(tree(tmp_path, "0::/a/b\n", **files)) == 0.5


def test_a_group_beside_the_way_does_not_count(tmp_path: Path) -> None:
    files = {"a__cpu.max": "300000 100000", "b__cpu.max": "50000 100000"}
    assert cpu_quota(tree(tmp_path, "0::/a\n", **files)) == 3


def test_version_1_names_the_group_as_the_host_does(tmp_path: Path) -> None:
    groups = "4:memory:/docker/1234\n3:cpu,cpuacct:/docker/1234\n0::/\n"
    assert cpu_quota(tree(tmp_path, groups, **below("cpu,cpuacct", v1(250_000)))) == 2.5


def test_version_1_on_the_host(tmp_path: Path) -> None:
    files = {**below("cpu__service", v1(50_000, 50_000)), **below("cpu", v1(-1))}
    assert cpu_quota(tree(tmp_path, "1:cpu:/service\n", **files)) == 1


def test_the_quota_of_another_controller_is_not_looked_for(tmp_path: Path) -> None:
    groups = "4:cpuacct:/a\n3:cpuset:/a\n"
    assert cpu_quota(tree(tmp_path, groups, **below("cpu__a", v1(50_000)))) is None


def test_nothing_there_says_nothing(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert usable_cpus(tmp_path) == HERE


def test_a_directory_in_the_place_of_a_file_says_nothing(tmp_path: Path) -> None:
    (tree(tmp_path, "0::/\n") / "sys" / "fs" / "cgroup" / "cpu.max").mkdir(parents=True)
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("quota", "expected"), [(1, 1), (100_000, 1), (100_001, min(2, HERE)), (10**9, HERE)]
)
def test_part_of_a_cpu_counts_as_one_and_never_more_than_there_are(
    tmp_path: Path, quota: int, expected: int
) -> None:
    assert usable_cpus(tree(tmp_path, "0::/\n", **{"cpu.max": f"{quota} 100000"})) == expected


TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


@given(TEXT, TEXT)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_damaged_files_say_nothing(tmp_path: Path, groups: str, content: str) -> None:
    found = usable_cpus(tree(tmp_path, f"{groups}\n1:cpu:/{groups}\n0::/{groups}\n", **{"cpu.max": content}))
    assert 1 <= found <= HERE


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=5), st.integers(1000, 10**6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_the_quota_is_the_least_of_the_path(tmp_path: Path, quotas: list[int], period: int) -> None:
    path = "__".join(f"g{level}" for level in range(len(quotas)))
    files = {}
    for level, quota in enumerate(quotas):
        directory = "__".join(path.split("__")[: level + 1])
        files[f"{directory}__cpu.max"] = f"{quota} {period}"
    found = cpu_quota(tree(tmp_path, f"0::/{path.replace('__', '/')}\n", **files))
    assert found is not None
    assert math.isclose(found, min(quotas) / period)
