"""uvicorn's protocol with the short way, over real connections: the same answers either way."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from app.lifecycle.states import StateBoard
from app.options import Options
from app.rest.application import make_application
from app.rest.protocol import http_protocol
from app.rest.service import Reply, RestService
from app.telemetry.serving_metrics import ServingMetrics
from tests.support.process import free_port, wait_until

HEAD = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\n"
PLAIN = HEAD + b"Content-Length: 4\r\n\r\nbody"


class Service(RestService):
    """Answers with the body and the name of the thread."""

    def __init__(self) -> None:
        super().__init__(None, StateBoard(), Options())  # type: ignore[arg-type]

    def answer(
        self,
        method: str,  # noqa: ARG002
        target: str,  # noqa: ARG002
        body: bytes,
        deadline: float | None = None,  # noqa: ARG002
    ) -> Reply:
        name = threading.current_thread().name
        status = 400 if body == b"bad!" else 200
        return Reply(status, (b"loop " if name == "loop" else b"thread ") + body[:20])


class Running:
    """A server in a thread named `loop`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.draining = False
        application = make_application(Service(), Options(), {}, lambda: self.draining)
        config = uvicorn.Config(
            application,
            port=self.port,
            http=http_protocol(Options(), ServingMetrics.make().ferry.refused),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_level="error",
            proxy_headers=False,  # as in the worker: it would stand before the application
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, name="loop")
        self.thread.start()
        wait_until(lambda: self.server.started, "the server listens")

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.stop()


@pytest.fixture
def port(running: Running) -> int:
    """Of a server that knows short requests to be fast."""

    def is_fast() -> bool:
        return all(b"loop" in body for _, body in exchange(running.port, PLAIN, PLAIN, PLAIN))

    wait_until(is_fast, "requests are answered on the loop")
    return running.port


def exchange(port: int, *pieces: bytes, answers: int | None = None) -> list[tuple[bytes, bytes]]:
    """Write the pieces one after the other over one connection; the heads and bodies of the answers."""

    async def talk() -> list[tuple[bytes, bytes]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        found = []
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        for _ in range(len(pieces) if answers is None else answers):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
            found.append((head, await reader.readexactly(int(length))))
        writer.close()
        await writer.wait_closed()
        return found

    return asyncio.run(talk())


def test_a_fast_request_is_answered_on_the_loop(port: int) -> None:
    ((head, body),) = exchange(port, PLAIN)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: application/json\r\n" in head
    assert b"date: " in head
    assert b"connection" not in head
    assert body == b"loop body"


def test_an_answer_is_one_write_also_the_usual_way(port: int) -> None:
    asked = HEAD + b"Content-Length: 4\r\nExpect: x\r\n\r\nbody"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for count in range(1, 20):
            connection.sendall(asked)
            answer = b""
            while not answer.endswith(b"\r\n\r\nthread body"):
                answer += connection.recv(4096)
            # tcpi_data_segs_in of Linux's struct tcp_info.
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            (segments,) = struct.unpack_from("I", info, 152)
            assert segments == count


def test_a_head_that_was_seen_is_not_parsed_again(running: Running, port: int) -> None:
    heads = running.server.config.loaded_app.direct.heads
    looked_up = heads.find(PLAIN)
    assert looked_up == ("/v1/models/m:predict", b"body")
    assert [body for _, body in exchange(port, PLAIN)] == [b"loop body"]
    # The same head, but not one whole request: it is parsed.
    for pieces in ([PLAIN[:-1], b"y"], [PLAIN + PLAIN[:9], PLAIN[9:]], [PLAIN * 2]):
        assert {body for _, body in exchange(port, *pieces, answers=1)} == {b"loop body"}
        assert exchange(port, PLAIN, PLAIN)[1][1] == b"loop body"


def test_what_ends_the_connection_or_begins_in_a_body_is_not_kept(running: Running, port: int) -> None:
    heads = running.server.config.loaded_app.direct.heads
    closing = PLAIN.replace(b"Host: h", b"Host: h\r\nConnection: close")
    assert b"connection: close" in exchange(port, closing)[0][0]
    assert heads.find(closing) is None
    # The end of one body and a whole request in one read: what stands before it is no head.
    late = PLAIN.replace(b"Host: h", b"Host: late")

    async def talk() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PLAIN[:-2])
        await writer.drain()
        connections: Any = running.server.server_state.connections
        half = lambda: any(each._pieces for each in tuple(connections))  # noqa: E731
        await asyncio.to_thread(wait_until, half, "half a body is there")
        writer.write(b"dy" + late)
        for _ in range(2):
            await asyncio.wait_for(reader.readuntil(b"loop body"), 30)
        writer.close()
        await writer.wait_closed()

    asyncio.run(talk())
    assert heads.find(b"dy" + late) is None


def test_a_head_that_was_seen_in_another_connection_and_after_a_request_of_another_kind(port: int) -> None:
    slow = PLAIN.replace(b"Content-Length", b"Expect: x\r\nContent-Length")
    bodies = [body for _, body in exchange(port, PLAIN, slow, answers=2)]
    assert bodies == [b"loop body", b"thread body"]


def test_errors_too(port: int) -> None:
    ((head, body),) = exchange(port, PLAIN.replace(b"body", b"bad!"))
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert body == b"loop bad!"


def test_the_same_head_either_way(port: int) -> None:
    ((here, _),) = exchange(port, PLAIN)
    ((there, body),) = exchange(port, PLAIN.replace(b"Content-Length", b"Expect: x\r\nContent-Length"))
    assert body == b"thread body"
    lines = [sorted(line.split(b":")[0] for line in head.split(b"\r\n")) for head in (here, there)]
    assert lines[0] == lines[1]


def test_requests_that_come_together_or_in_pieces(port: int) -> None:
    assert [body[-4:] for _, body in exchange(port, PLAIN * 50, answers=50)] == [b"body"] * 50
    pieces = [PLAIN[i : i + 1] for i in range(len(PLAIN))]
    assert exchange(port, *pieces, answers=1)[0][1] == b"loop body"


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        HEAD
        + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(gzip.compress(b"body"))
        + gzip.compress(b"body"),
        HEAD + b"Content-Length: 0\r\n\r\n",
        HEAD + b"Content-Length: 3000\r\n\r\n" + b"body" * 750,  # of a size that was not seen
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host: h", b"Connection: keep-alive"),
        b"GET /v1/models/m HTTP/1.1\r\nHost: h\r\n\r\n",
    ],
)
def test_what_is_not_plain_goes_the_usual_way(port: int, request_: bytes) -> None:
    ((head, body),) = exchange(port, request_)
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body.startswith(b"thread ")
    if b"0\r\n\r\n" not in request_ and not request_.startswith(b"GET"):
        assert body.startswith(b"thread body")


def test_a_client_that_closes_is_let_go(port: int) -> None:
    ((head, _),) = exchange(port, PLAIN.replace(b"Host: h", b"Host: h\r\nConnection: close"))
    assert b"connection: close\r\n" in head


def test_a_client_that_leaves_in_the_middle_harms_nobody(port: int) -> None:
    exchange(port, PLAIN[:-2], answers=0)
    assert exchange(port, PLAIN)[0][1] == b"loop body"


def test_an_expected_continue_comes(port: int) -> None:
    async def talk() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        line = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        writer.write(b"body")
        await asyncio.wait_for(reader.readuntil(b"body"), 30)
        writer.close()
        await writer.wait_closed()
        return line

    assert asyncio.run(talk()).startswith(b"HTTP/1.1 100 Continue")


def test_a_request_that_is_half_there_when_the_server_stops_is_answered() -> None:
    running = Running()

    async def talk() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(PLAIN[:-2])
        await writer.drain()
        await asyncio.to_thread(wait_until, lambda: running.server.server_state.connections, "it is there")
        connection = next(iter(running.server.server_state.connections))
        await asyncio.to_thread(wait_until, lambda: connection._pieces, "half of the body is there")  # type: ignore[union-attr]
        running.server.should_exit = True
        await asyncio.to_thread(wait_until, lambda: connection._pieces is None, "it goes the usual way")  # type: ignore[union-attr]
        writer.write(PLAIN[-2:])
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        return answer

    answer = asyncio.run(talk())
    running.stop()
    assert b"connection: close" in answer
    assert answer.endswith(b"thread body")


def test_during_a_drain_the_answer_ends_the_connection(running: Running, port: int) -> None:
    running.draining = True
    try:
        ((head, body),) = exchange(port, PLAIN)
    finally:
        running.draining = False
    assert b"connection: close\r\n" in head
    assert body == b"loop body"
