"""The life of the process: late listening, drain, crash, orphaned worker."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import requests

from tests.conftest import StartServer
from tests.support.gate import Gate
from tests.support.process import ServerProcess, accepts, wait_until

NO_TIMEOUT = "--rest_api_timeout_in_ms=0"


def test_nothing_listens_before_the_model_is_loaded_and_sigterm_ends_the_load_at_once(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(tmp_path / "absent")
    server.wait_log("Could not find base path")
    assert not accepts(server.rest_port)
    assert not accepts(server.grpc_port)
    server.terminate()
    assert server.wait_exit() == 0
    assert "Failed to start" not in server.log


def test_sigterm_lets_running_requests_finish_and_exits_0(
    start_server: StartServer, gated: Path, tmp_path: Path
) -> None:
    server = start_server(gated, flags=["--drain_seconds=120", NO_TIMEOUT]).wait_ready()
    request = Gate(server, tmp_path / "gate")
    server.terminate()
    wait_until(
        lambda: not accepts(server.rest_port) and not accepts(server.grpc_port), "the ports are closed"
    )
    assert server.process.poll() is None
    request.open()
    assert request.answers == [request.expected]
    assert server.wait_exit() == 0


def test_a_drain_is_bounded(start_server: StartServer, gated: Path, tmp_path: Path) -> None:
    server = start_server(gated, flags=["--drain_seconds=0.2"]).wait_ready()
    request = Gate(server, tmp_path / "gate")
    server.terminate()
    assert server.wait_exit() == 0
    request.join()
    assert len(request.answers) == 1


def test_a_second_signal_ends_at_once(start_server: StartServer, gated: Path, tmp_path: Path) -> None:
    server = start_server(gated, flags=["--drain_seconds=600", NO_TIMEOUT]).wait_ready()
    request = Gate(server, tmp_path / "gate")
    server.terminate()
    wait_until(lambda: not accepts(server.rest_port), "the drain has begun")
    server.terminate()
    assert server.wait_exit() == 0
    request.join()
    assert isinstance(request.answers[0], requests.ConnectionError)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_hangup_drain_too(start_server: StartServer, half_plus_two: Path, number: int) -> None:
    server = start_server(half_plus_two).wait_ready()
    os.killpg(server.process.pid, number)  # a terminal signals the whole group
    assert server.wait_exit() == 0


def test_a_crashed_worker_is_replaced_and_the_port_tells_the_truth(
    start_server: StartServer, half_plus_two: Path
) -> None:
    server = start_server(half_plus_two).wait_ready()
    worker = server.worker_pid()
    os.kill(worker, signal.SIGSEGV)
    wait_until(lambda: not accepts(server.rest_port), "REST is closed while nobody can answer")
    server.wait_log("The serving process died; starting it again.")
    wait_until(lambda: accepts(server.rest_port), "REST is back")
    assert server.worker_pid() != worker
    assert server.predict([1.0]).json() == {"predictions": [2.5]}
    response = server.prediction.Predict(server.predict_request([1.0]), timeout=30, wait_for_ready=True)
    assert list(response.outputs["y"].float_val) == [2.5]
    server.terminate()
    assert server.wait_exit() == 0


def test_a_worker_that_dies_before_it_served_ends_the_server(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(tmp_path / "absent")
    server.wait_log("Could not find base path")
    os.kill(server.worker_pid(), signal.SIGKILL)
    assert server.wait_exit() == 255
    assert server.log.count("Failed to start server. Error: INTERNAL: the serving process died") == 1


def test_a_worker_without_its_parent_ends(start_server: StartServer, half_plus_two: Path) -> None:
    server = start_server(half_plus_two).wait_ready()
    os.kill(server.process.pid, signal.SIGKILL)
    wait_until(
        lambda: not accepts(server.rest_port) and not accepts(server.grpc_port), "the orphan has ended"
    )


def test_a_worker_without_its_parent_ends_even_while_it_waits_for_a_model(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(tmp_path / "absent")
    server.wait_log("Could not find base path")
    worker = Path(f"/proc/{server.worker_pid()}")
    os.kill(server.process.pid, signal.SIGKILL)
    wait_until(lambda: not worker.exists(), "the orphan has ended")


def test_a_request_that_takes_longer_than_its_timeout_is_a_504(
    start_server: StartServer, gated: Path, tmp_path: Path
) -> None:
    server = start_server(gated, flags=["--rest_api_timeout_in_ms=100"]).wait_ready()
    os.mkfifo(tmp_path / "gate")
    answer = requests.post(server.url(":predict"), json={"inputs": str(tmp_path)}, timeout=60)
    assert answer.status_code == 504
    assert answer.json() == {"error": "Timed out waiting for notification"}


def test_one_slow_request_does_not_hold_up_the_others(
    start_server: StartServer, gated: Path, tmp_path: Path
) -> None:
    server = start_server(gated, flags=[NO_TIMEOUT]).wait_ready()
    request = Gate(server, tmp_path / "gate")
    assert requests.get(server.url(), timeout=30).ok
    assert requests.post(server.url(":predict"), json={"inputs": ""}, timeout=30).json() == {"outputs": ""}
    assert request.answers == []
    request.open()
    assert request.answers == [request.expected]


def test_without_a_rest_port_grpc_serves_alone(start_server: StartServer, half_plus_two: Path) -> None:
    server = start_server(half_plus_two, flags=["--rest_api_port=0"])
    wait_until(lambda: accepts(server.grpc_port), "gRPC answers")
    response = server.prediction.Predict(server.predict_request([1.0]), timeout=30)
    assert list(response.outputs["y"].float_val) == [2.5]
    assert not accepts(server.rest_port)
    server.terminate()
    assert server.wait_exit() == 0


def test_the_parent_never_imports_tensorflow(shared_server: ServerProcess) -> None:
    maps = Path(f"/proc/{shared_server.process.pid}/maps").read_text()
    assert "tensorflow" not in maps
    assert "tensorflow" in Path(f"/proc/{shared_server.worker_pid()}/maps").read_text()


def test_cors_headers_by_flag(start_server: StartServer, half_plus_two: Path) -> None:
    server = start_server(half_plus_two, flags=["--rest_api_enable_cors_support"]).wait_ready()
    answer = requests.options(server.url(), headers={"Origin": "https://example.com"}, timeout=30)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert server.predict([1.0]).headers["Access-Control-Allow-Methods"] == "POST, GET"
