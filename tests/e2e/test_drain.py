"""SIGTERM with requests in flight and in queues, over REST and both gRPC transports."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from app.options import TRANSPORTS
from tests.conftest import StartServer
from tests.support.process import ServerProcess, accepts, wait_until

STEPS = 300_000
EACH = 4


def send(server: ServerProcess, over: str, answers: list[Any]) -> None:
    """One request; its answer, or the error."""
    try:
        if over == "REST":
            answer = requests.post(server.url(":predict"), json={"inputs": STEPS}, timeout=300)
            answers.append((over, answer.json()["outputs"], answer.headers.get("Connection")))
            return
        request = server.predict_request([])
        request.inputs["x"].Clear()
        request.inputs["x"].dtype = 9
        request.inputs["x"].tensor_shape.SetInParent()
        request.inputs["x"].int64_val.append(STEPS)
        response = server.prediction.Predict(request, timeout=300)
        answers.append((over, response.outputs["y"].int64_val[0], None))
    except (requests.RequestException, grpc.RpcError) as error:
        answers.append(error)


def in_flight(server: ServerProcess) -> float:
    """Requests that the server has begun, by its metrics."""
    page = requests.get(f"{server.rest}/metrics", timeout=30).text
    lines = [line for line in page.splitlines() if line.startswith("ferry_requests_in_flight{")]
    return sum(float(line.split()[1]) for line in lines)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_runs_and_what_waits_is_answered_before_the_end(
    start_server: StartServer, busy: Path, transport: str
) -> None:
    flags = [
        f"--grpc_transport={transport}",
        "--drain_seconds=120",
        "--rest_api_timeout_in_ms=0",
        "--rest_api_num_threads=1",  # so that all but one of each wait
        "--grpc_max_threads=1",
    ]
    server = start_server(busy, flags=flags).wait_ready()
    _ = server.channel  # made before the threads share it
    answers: list[Any] = []
    threads = [
        threading.Thread(target=send, args=(server, over, answers)) for over in ("REST", "gRPC") * EACH
    ]
    for thread in threads:
        thread.start()
    # grpcio counts a call once it has a thread, REST and http2 theirs as well or before.
    wait_until(lambda: in_flight(server) >= 2, "requests run over both")
    server.terminate()
    wait_until(lambda: not accepts(server.rest_port), "REST is closed to new connections")
    for thread in threads:
        thread.join()
    assert server.wait_exit() == 0
    done = [answer for answer in answers if isinstance(answer, tuple)]
    assert sorted(over for over, _, _ in done) == ["REST"] * EACH + ["gRPC"] * EACH, answers
    assert {steps for _, steps, _ in done} == {STEPS}
    assert "close" in {connection for over, _, connection in done if over == "REST"}
