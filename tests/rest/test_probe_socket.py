from __future__ import annotations

import asyncio
import http.client
import socket

import pytest

from app import healthcheck
from app.errors import ServingError
from app.options import Options
from app.rest import probe_socket
from app.rest.pages import Content, Page
from app.rest.ports import probe_address
from tests.support.process import free_port

PAGES = {
    "/livez": Page(lambda accept: Content(b"ok")),  # noqa: ARG005
    "/readyz": Page(lambda accept: Content(b"{}", "application/json", 503)),  # noqa: ARG005
}


def raw(port: int, request: bytes) -> bytes:
    """What a client of bytes gets until the server closes."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(probe_address(port))
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(probe_address(port))
    connection.request("GET", path)
    response = connection.getresponse()
    connection.close()
    return response.status, response.read()


async def _ask_everything(port: int) -> None:
    server = await probe_socket.serve(probe_socket.bind(port), PAGES)
    async with server:
        assert await asyncio.to_thread(get, port, "/livez") == (200, b"ok")
        assert await asyncio.to_thread(get, port, "/readyz") == (503, b"{}")
        assert await asyncio.to_thread(get, port, "/v1/models") == (404, b"")
        for request in (b"POST /livez HTTP/1.1\r\n\r\n", b"x\r\n\r\n"):
            assert (await asyncio.to_thread(raw, port, request)).startswith(b"HTTP/1.1 404 ")
        for request in (b"", b"GET /livez HTTP/1.1\r\n", b"x" * 20_000):
            assert await asyncio.to_thread(raw, port, request) == b""
        alive = Options(rest_api_port=port, rest_ssl_config_file="x", model_config_file="x")
        assert await asyncio.to_thread(healthcheck.check, alive) == (
            True,
            f"port {port}, /livez: HTTP status 200 ok",
        )
        ready = Options(rest_api_port=port, rest_ssl_config_file="x")
        assert not (await asyncio.to_thread(healthcheck.check, ready))[0]


def test_probes_are_answered_and_nothing_else() -> None:
    asyncio.run(_ask_everything(free_port()))


def test_the_socket_of_another_server_is_told() -> None:
    port = free_port()
    with probe_socket.bind(port), pytest.raises(ServingError) as raised:
        probe_socket.bind(port)
    assert raised.value.message == (
        f"Cannot listen on the UNIX socket @ferry-probes-{port} for health checks: Address already in use."
    )


def test_without_a_server_the_health_check_fails() -> None:
    healthy, text = healthcheck.check(Options(rest_api_port=free_port(), rest_ssl_config_file="x"))
    assert not healthy
    assert text.startswith("the server does not answer: ")
