"""The probes once more, for the health check of this machine, where REST has TLS.

The health check has no certificate that the server would take, and should not need one. It asks through a
UNIX socket in the abstract name space, which other machines cannot reach and which leaves no file behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import socket
from collections.abc import Mapping

from app.errors import Code, ServingError
from app.rest.pages import Content, Page
from app.rest.ports import probe_address

_PATIENCE_SECONDS = 5.0
_LONGEST_REQUEST = 8192


def bind(port: int) -> socket.socket:
    """The socket of the server whose REST port is `port`; it does not listen yet.

    Raises:
        ServingError: UNAVAILABLE if another process has it.
    """
    address = probe_address(port)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ServingError(
            Code.UNAVAILABLE,
            f"Cannot listen on the UNIX socket @{address[1:]} for health checks: {error.strerror}.",
        ) from None
    return bound


async def serve(bound: socket.socket, pages: Mapping[str, Page]) -> asyncio.Server:
    """Answer `GET PATH` for `pages`, one request for each connection, until the server is closed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_answer(request, pages))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a client that is gone, slow or no health check
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    return await asyncio.start_unix_server(answer, sock=bound, limit=_LONGEST_REQUEST)


def _answer(request: bytes, pages: Mapping[str, Page]) -> bytes:
    method, _, rest = request.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    page = pages.get(rest.partition(" ")[0]) if method == "GET" else None
    content = Content(b"", status=404) if page is None else page.render("")
    head = (
        f"HTTP/1.1 {content.status} {http.HTTPStatus(content.status).phrase}\r\n"
        f"Content-Type: {content.content_type}\r\nContent-Length: {len(content.body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + content.body
