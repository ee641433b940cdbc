"""What a server for GPUs does on a machine without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from tests.conftest import StartServer
from tests.support.process import accepts

pytestmark = pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU on this machine"
)
FOR_GPUS = {"FERRY_REQUIRE_GPU": "1"}


def test_a_missing_gpu_ends_the_start_with_one_clear_line(
    start_server: StartServer, half_plus_two: Path
) -> None:
    server = start_server(half_plus_two, environment=FOR_GPUS)
    assert server.wait_exit() == 255
    (line,) = (line for line in server.log.splitlines() if "Failed to start server. Error:" in line)
    assert "FAILED_PRECONDITION: This server is meant for GPUs" in line
    assert "docker run --gpus all" in line
    assert "--allow_no_gpu" in line
    assert "Reading SavedModel" not in server.log
    assert not accepts(server.rest_port)


def test_a_missing_gpu_can_be_allowed(start_server: StartServer, half_plus_two: Path) -> None:
    server = start_server(half_plus_two, environment=FOR_GPUS, flags=["--allow_no_gpu"]).wait_ready()
    assert server.predict([1.0]).json() == {"predictions": [2.5]}


def test_other_images_ask_for_no_gpu(start_server: StartServer, half_plus_two: Path) -> None:
    server = start_server(half_plus_two, environment={"FERRY_REQUIRE_GPU": "0"}).wait_ready()
    assert server.predict([1.0]).json() == {"predictions": [2.5]}
