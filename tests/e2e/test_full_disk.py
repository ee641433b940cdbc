"""Disks without room: for recorded requests, for the cache of models, for the log itself."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import requests

from tests.conftest import StartServer
from tests.support import models
from tests.support.process import ServerProcess, wait_until
from tests.support.stores import WebServer

REMOTE = ("--remote_poll_wait_seconds=1", "--load_retry_interval_micros=100000", "--max_num_load_retries=1")
ANSWER = {"predictions": [2.5]}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system of 256 KiB, where the machine allows to mount one."""
    directory = tmp_path / "small"
    directory.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(directory)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(file: Path) -> None:
    """Write to `file` until its disk is full."""
    room = os.statvfs(file.parent)
    with contextlib.suppress(OSError):
        file.write_bytes(bytes(2 * room.f_bavail * room.f_frsize))
    assert os.statvfs(file.parent).f_bavail == 0


def recorded(server: ServerProcess, code: str) -> float:
    """How many requests were recorded with this outcome, by the metrics."""
    start = f'tensorflow_serving_request_log_count_total{{model_name="model",status_code="{code}"}} '
    page = requests.get(f"{server.rest}/metrics", timeout=30).text
    return sum(float(line.removeprefix(start)) for line in page.splitlines() if line.startswith(start))


def is_lost(server: ServerProcess, count: int) -> bool:
    """Whether so many requests could not be written."""
    return recorded(server, "UNAVAILABLE") == count


def test_a_full_disk_costs_recorded_requests_only(
    start_server: StartServer, half_plus_two: Path, small_disk: Path, tmp_path: Path
) -> None:
    config = tmp_path / "models.config"
    config.write_text(
        f"""model_config_list {{ config {{
          name: "model" base_path: "{half_plus_two}" model_platform: "tensorflow"
          logging_config {{
            log_collector_config {{ type: "tfrecord" filename_prefix: "{small_disk / "m"}" }}
            sampling_config {{ sampling_rate: 1 }}
          }}
        }} }}"""
    )
    server = start_server(half_plus_two, flags=[f"--model_config_file={config}"]).wait_ready()
    worker = server.worker_pid()
    assert server.predict([1.0]).json() == ANSWER
    wait_until(lambda: recorded(server, "OK") == 1, "it is recorded")
    fill(small_disk / "other")
    for sent in range(1, 31):  # one after the other is lost, each in a write of its own
        assert server.predict([1.0] * 500).status_code == 200
        wait_until(partial(is_lost, server, sent), "it is counted as lost")
    assert server.log.count("requests were not recorded under") == 1
    assert os.strerror(errno.ENOSPC) in server.log
    (small_disk / "other").unlink()
    assert server.predict([1.0]).json() == ANSWER
    wait_until(lambda: recorded(server, "OK") == 2, "recording goes on")
    assert server.worker_pid() == worker
    server.terminate()
    assert server.wait_exit() == 0
    # What it had at hand when the disk was full stays as it was, and the next one has a number of its own.
    assert sorted(file.name for file in small_disk.iterdir()) == [
        "m-00000001.tfrecord.open",
        "m-00000002.tfrecord",
    ]


def test_a_cache_without_room_is_told_before_anything_is_fetched(
    start_server: StartServer, half_plus_two: Path, small_disk: Path, tmp_path: Path, web: WebServer
) -> None:
    (tmp_path / "web" / "m").symlink_to(half_plus_two)
    server = start_server(f"{web.address}/m", flags=[*REMOTE, f"--model_cache_dir={small_disk}"])
    assert server.wait_exit() == 255
    assert "RESOURCE_EXHAUSTED: Fetching " in server.log
    assert f"and {small_disk} has 0 MB free. Free some, or name a larger place" in server.log
    assert list((small_disk / "versions").iterdir()) == []


def test_a_fetch_that_fills_the_disk_fails_and_what_is_loaded_serves(
    start_server: StartServer, tmp_path: Path, web: WebServer
) -> None:
    base_path, cache = tmp_path / "web" / "m", tmp_path / "cache"
    models.save_half_plus(base_path / "1", 2.0)
    flags = [*REMOTE, f"--model_cache_dir={cache}"]
    server = start_server(f"{web.address}/m", flags=flags).wait_ready()
    worker = server.worker_pid()
    # The room was there when the fetch began: no file can become larger than this, as if the disk were full.
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    models.save_large(base_path / "2", 4)
    wait_until(lambda: server.states().get(2) == "END", "version 2 is given up")
    status = requests.get(server.url("/versions/2"), timeout=30).json()["model_version_status"][0]["status"]
    assert status["error_code"] == "RESOURCE_EXHAUSTED"
    assert os.strerror(errno.EFBIG) in status["error_message"]
    assert "name a larger place with --model_cache_dir" in status["error_message"]
    assert server.predict([1.0]).json() == ANSWER
    assert (len(list((cache / "versions").iterdir())), list((cache / "partial").iterdir())) == (1, [])
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    models.save_half_plus(base_path / "3", 3.0)
    wait_until(lambda: server.states().get(3) == "AVAILABLE", "version 3 is fetched")
    assert server.worker_pid() == worker


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_log_that_cannot_be_written_stops_nothing(
    start_server: StartServer, half_plus_two: Path, form: str
) -> None:
    flags = [f"--log_format={form}", "--access_log=all"]
    prefix = ["sh", "-c", 'exec "$@" 2>/dev/full', "sh"]
    server = start_server(half_plus_two, flags=flags, prefix=prefix).wait_ready()
    worker = server.worker_pid()
    for _ in range(3):
        assert server.predict([1.0]).json() == ANSWER
    assert server.prediction.Predict(server.predict_request([1.0]), timeout=30).outputs["y"].float_val[:] == [
        2.5
    ]
    assert server.worker_pid() == worker
    server.terminate()
    assert server.wait_exit() == 0
