"""Limits over real connections: what is refused, how clients are told, and that memory stays bounded."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from app.options import TRANSPORTS
from tests.support.process import ServerProcess, resident_bytes, wait_until

MIB = 1 << 20
STEPS = 1_000_000  # a run of some tenths of a second, or more
FLAGS = (
    "--max_connections=12",
    "--rest_api_max_body_mb=1",
    "--rest_api_max_gzip_ratio=100",
    "--rest_api_max_json_depth=8",
    "--rest_api_max_header_kb=4",
    "--rest_api_receive_timeout_in_ms=500",
    "--rest_api_idle_timeout_in_ms=1500",
    "--max_requests_per_second_per_model=20",
)


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(
    request: pytest.FixtureRequest, half_plus_two: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server with tight limits of what a request may cost."""
    log = tmp_path_factory.mktemp("limits") / "server.log"
    flags = [f"--grpc_transport={request.param}", *FLAGS]
    started = ServerProcess(half_plus_two, log, flags=flags)
    try:
        yield started.wait_ready()
    finally:
        started.kill()


@pytest.fixture(scope="module", params=TRANSPORTS)
def busy_server(
    request: pytest.FixtureRequest, busy: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server that takes two requests at a time."""
    log = tmp_path_factory.mktemp("limits") / "server.log"
    flags = ["--max_in_flight_requests=2"]
    started = ServerProcess(
        busy, log, flags=[f"--grpc_transport={request.param}", "--rest_api_timeout_in_ms=0", *flags]
    )
    try:
        yield started.wait_ready()
    finally:
        started.kill()


def refused(server: ServerProcess, reason: str) -> float:
    """How many requests were refused for `reason`, by the metrics page."""
    for line in requests.get(f"{server.rest}/metrics", timeout=30).text.splitlines():
        if line.startswith(f'ferry_requests_refused_total{{reason="{reason}"}}'):
            return float(line.split()[1])
    return 0.0


@contextlib.contextmanager
def connected(server: ServerProcess) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as sock:
        yield sock


def answer_of(sock: socket.socket) -> tuple[int, bytes]:
    """Status and all bytes of an answer that ends with its connection."""
    content = b""
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            content += part
    return int(content.split()[1]) if content else 0, content


def post(server: ServerProcess, body: Any, **headers: str) -> requests.Response:
    return requests.post(server.url(":predict"), data=body, headers=headers, timeout=30)


def test_a_large_body_is_a_413(server: ServerProcess) -> None:
    before = refused(server, "body_size")
    answer = post(server, b" " * (MIB + 1))
    assert answer.status_code == 413
    assert f"at most {MIB} are taken (--rest_api_max_body_mb)" in answer.json()["error"]
    assert refused(server, "body_size") == before + 1
    assert server.predict([1.0]).json() == {"predictions": [2.5]}


def test_an_endless_body_takes_no_memory(server: ServerProcess) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield bytes(MIB)

    before = resident_bytes(server.worker_pid())
    assert post(server, endless()).status_code == 413
    assert resident_bytes(server.worker_pid()) - before < 30 * MIB


def test_a_bomb_is_a_413(server: ServerProcess) -> None:
    body = json.dumps({"instances": [1.0] * 20_000}).encode()
    answer = post(server, gzip.compress(body), **{"Content-Encoding": "gzip"})
    assert answer.status_code == 413
    assert "more than 100 times its size" in answer.json()["error"]
    before = resident_bytes(server.worker_pid())
    bomb = gzip.compress(bytes(900 * MIB), 9)
    assert len(bomb) < MIB
    assert post(server, bomb, **{"Content-Encoding": "gzip"}).status_code == 413
    assert resident_bytes(server.worker_pid()) - before < 150 * MIB
    assert refused(server, "gzip_ratio") >= 2


def test_deep_json_is_told(server: ServerProcess) -> None:
    answer = post(server, b'{"instances": ' + b"[" * 8 + b"]" * 8 + b"}")
    assert answer.status_code == 400
    assert answer.json()["error"] == (
        "JSON Parse error: more than 8 levels of brackets (--rest_api_max_json_depth)."
    )


def test_large_headers_are_a_431(server: ServerProcess) -> None:
    answer = requests.get(server.url(), headers={"X-Large": "x" * 5000}, timeout=30)
    assert answer.status_code == 431
    assert "more than 4096 bytes (--rest_api_max_header_kb)" in answer.json()["error"]
    assert answer.headers["Connection"] == "close"
    assert requests.get(server.url(), headers={"X-Fits": "x" * 3000}, timeout=30).ok
    assert refused(server, "header_size") >= 1


def test_headers_without_an_end_are_a_431_and_take_no_memory(server: ServerProcess) -> None:
    before = resident_bytes(server.worker_pid())
    with connected(server) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"GET / HTTP/1.1\r\nX-Large: ")
            for _ in range(100):
                sock.sendall(b"x" * MIB)
        answer_of(sock)
    assert resident_bytes(server.worker_pid()) - before < 30 * MIB


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /v1/models/model HT",
        b"POST /v1/models/model:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
    ],
)
def test_a_request_that_does_not_arrive_is_a_408(server: ServerProcess, begun: bytes) -> None:
    before = refused(server, "slow")
    with connected(server) as sock:
        sock.sendall(begun)
        status, content = answer_of(sock)
    assert status == 408
    assert b"did not arrive within 0.5 s" in content
    assert refused(server, "slow") == before + 1


def test_a_connection_without_a_request_is_closed(server: ServerProcess) -> None:
    with connected(server) as sock:
        assert answer_of(sock) == (0, b"")
    with connected(server) as sock:
        sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        status, content = answer_of(sock)  # it ends, although the client would keep it
    assert status == 200
    assert content.endswith(b"ok")


def test_too_many_rest_connections_are_a_503(server: ServerProcess) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(connected(server))

        def full() -> bool:
            with connected(server) as sock:
                sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                status, content = answer_of(sock)
            return status == 503 and b"retry-after: 1" in content

        wait_until(full, "the thirteenth is refused")
    wait_until(lambda: refused_or_none(server) >= 1, "connections are free again")


def refused_or_none(server: ServerProcess) -> float:
    try:
        return refused(server, "connections")
    except requests.ConnectionError:
        return 0.0


def test_too_many_grpc_connections_are_closed(server: ServerProcess) -> None:
    def greet() -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", server.grpc_port), timeout=30)
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        return sock

    with contextlib.ExitStack() as stack:
        for _ in range(12):
            sock = stack.enter_context(contextlib.closing(greet()))
            assert sock.recv(9)  # the server's settings: it has taken the connection

        def full() -> bool:
            with contextlib.closing(socket.create_connection(("127.0.0.1", server.grpc_port))) as sock:
                sock.settimeout(30)
                try:
                    return sock.recv(1) == b""
                except ConnectionResetError:
                    return True

        wait_until(full, "the thirteenth is closed")


@contextlib.contextmanager
def held_places(server: ServerProcess) -> Iterator[None]:
    """Slow requests over REST and gRPC, more than there are places."""
    over = threading.Event()

    def over_rest() -> None:
        while not over.is_set():
            requests.post(server.url(":predict"), json={"inputs": STEPS}, timeout=300)

    def over_grpc() -> None:
        while not over.is_set():
            with contextlib.suppress(grpc.RpcError):
                server.prediction.Predict(count_to(server, STEPS), timeout=300)

    threads = [threading.Thread(target=kind) for kind in (over_rest, over_grpc) * 2]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def count_to(server: ServerProcess, steps: int) -> Any:
    request = server.predict_request([])
    request.inputs["x"].Clear()
    request.inputs["x"].dtype = 9
    request.inputs["x"].tensor_shape.SetInParent()
    request.inputs["x"].int64_val.append(steps)
    return request


def grpc_error(server: ServerProcess, request: Any) -> Any:
    """What a gRPC request fails with; None if it does not."""
    try:
        server.prediction.Predict(request, timeout=30)
    except grpc.RpcError as error:
        return error
    return None


def test_requests_in_flight_are_limited_over_both_protocols(busy_server: ServerProcess) -> None:
    server = busy_server

    def refusal() -> tuple[requests.Response] | None:
        answer = requests.post(server.url(":predict"), json={"inputs": 1}, timeout=30)
        # In a tuple, for an answer with an error status counts as false.
        return (answer,) if answer.status_code == 429 and "works on 2 requests" in answer.text else None

    def grpc_refusal() -> Any:
        error = grpc_error(server, count_to(server, 1))
        return error if error is not None and "works on 2 requests already" in error.details() else None

    with held_places(server):
        (answer,) = wait_until(refusal, "both places are taken")
        error = wait_until(grpc_refusal, "both places are taken")
        # What runs no model is answered.
        assert requests.get(server.url(), timeout=30).ok
    assert answer.headers["Retry-After"] == "1"
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    metadata = dict(error.trailing_metadata())
    assert (metadata["retry-after"], metadata["grpc-retry-pushback-ms"]) == ("1", "1000")
    wait_until(
        lambda: requests.post(server.url(":predict"), json={"inputs": 1}, timeout=30).ok, "places are free"
    )
    assert server.prediction.Predict(count_to(server, 1), timeout=30)
    assert refused(server, "in_flight") >= 2


def test_the_rate_of_a_model_is_limited_over_both_protocols(server: ServerProcess) -> None:
    with requests.Session() as session:

        def refusal() -> requests.Response | None:
            answer = session.post(server.url(":predict"), json={"instances": [1.0]}, timeout=30)
            return answer if answer.status_code == 429 else None

        answer = None
        while answer is None:
            answer = refusal()
    assert answer.headers["Retry-After"] == "1"
    assert answer.json()["error"] == "Model model takes 20 requests a second; try again later."
    error = None
    while error is None:
        error = grpc_error(server, server.predict_request([1.0]))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(error.trailing_metadata())["retry-after"] == "1"
    assert requests.get(server.url(), timeout=30).ok  # what runs no model has no rate
    assert refused(server, "rate") >= 2
