from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.cpus import usable_cpus
from app.engine.session_config import in_callers_thread, session_config
from app.errors import ServingError
from app.options import Options

CPUS = usable_cpus()


def threads(**values: Any) -> tuple[int, int]:
    config = session_config(Options(**values))
    return config.intra_op_parallelism_threads, config.inter_op_parallelism_threads


@pytest.mark.parametrize(
    ("session", "intra", "inter", "expected"),
    [
        (0, 0, 0, (CPUS, CPUS)),
        (3, 0, 0, (3, 3)),
        (3, 5, 0, (5, CPUS)),
        (3, 0, 5, (CPUS, 5)),
        (0, 1, 5, (1, 5)),
        (-1, 0, 0, (CPUS, CPUS)),
        (3, -1, -1, (3, 3)),
        (0, -1, 5, (CPUS, 5)),
    ],
)
def test_own_flags_come_before_the_common_one(
    session: int, intra: int, inter: int, expected: tuple[int, int]
) -> None:
    found = threads(
        tensorflow_session_parallelism=session,
        tensorflow_intra_op_parallelism=intra,
        tensorflow_inter_op_parallelism=inter,
    )
    assert found == expected


@pytest.mark.parametrize("kind", ["INTRA", "INTER"])
def test_tensorflows_own_variables_are_left_to_it(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv(f"TF_NUM_{kind}OP_THREADS", "3")
    assert threads() == ((0, CPUS) if kind == "INTRA" else (CPUS, 0))
    assert threads(tensorflow_session_parallelism=2) == (2, 2)


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({}, "", True),
        ({"tensorflow_intra_op_parallelism": 4}, "", True),
        ({"tensorflow_inter_op_parallelism": 1}, "", True),
        ({"tensorflow_inter_op_parallelism": 2}, "", False),
        ({"tensorflow_session_parallelism": 2}, "", False),
        ({"tensorflow_session_parallelism": 2, "tensorflow_intra_op_parallelism": 1}, "", True),
        ({}, "session_inter_op_thread_pool { num_threads: 2 }", False),
        ({}, "use_per_session_threads: true", False),
        ({}, "inter_op_parallelism_threads: 4", True),
    ],
)
def test_graphs_leave_the_callers_thread_only_if_several_ops_at_a_time_were_asked_for(
    tmp_path: Path, options: dict[str, int], text: str, expected: bool
) -> None:
    file = tmp_path / "session.config"
    file.write_text(f"# {text}\n{text}\n")
    given = Options(tensorflow_session_config_file=str(file), **options)  # type: ignore[arg-type]
    assert in_callers_thread(given, session_config(given)) is expected


def test_gpu_memory_grows_unless_a_fraction_is_given() -> None:
    assert session_config(Options()).gpu_options.allow_growth
    gpu_options = session_config(Options(per_process_gpu_memory_fraction=0.25)).gpu_options
    assert not gpu_options.allow_growth
    assert gpu_options.per_process_gpu_memory_fraction == 0.25


@pytest.mark.parametrize(
    ("fraction", "text", "growth"),
    [
        (0.0, "gpu_options { visible_device_list: '1' }", True),
        (0.0, "gpu_options { allow_growth: false }", False),
        (0.5, "gpu_options { visible_device_list: '1' }", False),
        (0.5, "gpu_options { allow_growth: true }", True),
        (0.0, "gpu_options { per_process_gpu_memory_fraction: 0.9 }", True),
    ],
)
def test_a_file_decides_on_growth_and_the_flag_on_the_fraction(
    tmp_path: Path, fraction: float, text: str, growth: bool
) -> None:
    file = tmp_path / "session.config"
    file.write_text(text)
    options = Options(tensorflow_session_config_file=str(file), per_process_gpu_memory_fraction=fraction)
    gpu_options = session_config(options).gpu_options
    assert gpu_options.allow_growth is growth
    assert gpu_options.per_process_gpu_memory_fraction == fraction


def test_ops_may_run_where_there_is_a_kernel() -> None:
    assert session_config(Options()).allow_soft_placement


def test_a_file_gives_the_rest_and_the_flags_win(tmp_path: Path) -> None:
    file = tmp_path / "session.config"
    file.write_text(
        "intra_op_parallelism_threads: 7 log_device_placement: true gpu_options { visible_device_list: '1' }"
    )
    config = session_config(Options(tensorflow_session_config_file=str(file)))
    assert config.log_device_placement
    assert config.gpu_options.visible_device_list == "1"
    assert config.intra_op_parallelism_threads == CPUS
    assert config.allow_soft_placement


def test_a_bad_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "session.config"
    file.write_text("nope: 1")
    with pytest.raises(ServingError, match="Invalid protobuf file"):
        session_config(Options(tensorflow_session_config_file=str(file)))
