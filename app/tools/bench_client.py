"""One process of a load test: clients that each send the same request again and again on its own connection.

Standard input: a line of JSON (`Load`), the request's bytes, and a line that says when to begin. Standard
output: `ready` once all connections stand, and at the end a line of JSON (`Tally`).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import httptools
import uvloop

from app.tools.access import OPEN, Access

_PAUSE_SECONDS = 0.05  # after a connection failed, so that a dead server is not hammered
_LONGEST_TEXT = 300
_GRPC_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each channel
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


@dataclass(frozen=True)
class Load:
    """What a process sends.

    Attributes:
        protocol: `http`, `https`, `grpc` or `grpcs`.
        host: HOST:PORT.
        target: the path of the URL, or the full name of the gRPC method.
        bytes: the length of the request that follows.
        clients: each waits for an answer before it sends again.
        warm_seconds: how long they send before anything is measured.
        seconds: how long they then begin requests that count; all of these run to their end.
        timeout: of each request, in seconds.
        access: what the server wants to see.
    """

    protocol: str
    host: str
    target: str
    bytes: int
    clients: int
    warm_seconds: float
    seconds: float
    timeout: float
    access: Access = OPEN


@dataclass
class Tally:
    """What came of it.

    Attributes:
        latencies: seconds of each request that was answered well.
        errors: how many others, by code.
        first_error: the text of one.
        elapsed: seconds from the beginning to the last answer.
        cpu: seconds of CPU time that this process took for it.
    """

    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    first_error: str = ""
    elapsed: float = 0.0
    cpu: float = 0.0


class RequestError(Exception):
    """A request that was not answered well: a code and a text."""

    def __init__(self, code: str, text: str = "", *, broken: bool = False) -> None:
        """Keep them; `broken` if the connection is of no use any more."""
        super().__init__(code, text)
        self.code = code
        self.text = text
        self.broken = broken


Send = Callable[[], Awaitable[None]]


class HttpConnection(asyncio.Protocol):
    """A persistent connection that sends one request at a time."""

    def __init__(self, request: bytes) -> None:
        """Send `request`, head and body, each time."""
        self._request = request
        self._transport: Any = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._start()

    def _start(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""

    async def send(self) -> None:
        """Send it and wait for the answer; RequestError unless it is 200."""
        if self._transport is None or self._transport.is_closing():
            raise RequestError("connection closed", broken=True)
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(self._request)
        status, body = await self._answer
        if status != 200:
            raise RequestError(f"HTTP {status}", body.decode(errors="replace"))

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(RequestError("connection closed", str(exc or ""), broken=True))

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(RequestError("not HTTP", str(error), broken=True))
            self.close()

    def on_body(self, body: bytes) -> None:
        """Keep as much as an error's text needs."""
        if len(self._body) < _LONGEST_TEXT:
            self._body += body[:_LONGEST_TEXT]

    def on_message_complete(self) -> None:
        """Hand the answer over."""
        status, body, keeps = self._parser.get_status_code(), self._body, self._parser.should_keep_alive()
        self._start()
        if not keeps:
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((status, body))


async def _http(load: Load, payload: bytes) -> tuple[Send, Callable[[], Any]]:
    """A function that sends over HTTP, and one that closes the connection."""
    headers = {
        "host": load.host,
        "content-type": "application/json",
        **load.access.headers(),
        "content-length": len(payload),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {load.target} HTTP/1.1\r\n{lines}\r\n"
    tls = load.access.context() if load.protocol == "https" else None
    host, _, port = load.host.rpartition(":")
    loop, open_one = asyncio.get_running_loop(), list[HttpConnection]()

    async def connect() -> HttpConnection:
        request = head.encode() + payload
        try:
            _, connection = await loop.create_connection(
                lambda: HttpConnection(request), host, int(port), ssl=tls
            )
        except OSError as error:
            raise RequestError("cannot connect", str(error), broken=True) from None
        return connection

    async def send() -> None:
        try:
            async with asyncio.timeout(load.timeout):
                if not open_one:
                    open_one.append(await connect())
                await open_one[0].send()
        except (TimeoutError, RequestError) as error:
            if isinstance(error, TimeoutError) or error.broken:
                while open_one:  # its answer would be taken for the next one's
                    open_one.pop().close()
            raise RequestError("timeout") if isinstance(error, TimeoutError) else error from None

    def close() -> None:
        for connection in open_one:
            connection.close()

    open_one.append(await connect())
    return send, close


async def _grpc(load: Load, payload: bytes) -> tuple[Send, Callable[[], Any]]:
    """The same over gRPC."""
    if load.protocol == "grpcs":
        channel = grpc.aio.secure_channel(load.host, load.access.credentials(), _GRPC_OPTIONS)
    else:
        channel = grpc.aio.insecure_channel(load.host, _GRPC_OPTIONS)
    metadata = tuple(load.access.headers().items())
    try:
        await asyncio.wait_for(channel.channel_ready(), load.timeout)
    except TimeoutError:
        raise RequestError("cannot connect", f"{load.host} does not answer over gRPC") from None
    call: Any = channel.unary_unary(load.target, None, None)

    async def send() -> None:
        try:
            await call(payload, timeout=load.timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise RequestError(
                code.name, error.details() or "", broken=code is grpc.StatusCode.UNAVAILABLE
            ) from None

    return send, lambda: None


async def client(send: Send, end: float, tally: Tally) -> None:
    """Send until `end`, on `time.monotonic`, one request after the other."""
    while (started := time.monotonic()) < end:
        try:
            await send()
        except RequestError as error:
            tally.errors[error.code] += 1
            tally.first_error = tally.first_error or f"{error.code}: {error.text}"[:_LONGEST_TEXT]
            if error.broken:
                await asyncio.sleep(_PAUSE_SECONDS)
        else:
            tally.latencies.append(time.monotonic() - started)


async def main() -> None:
    """Do what standard input says."""
    told = json.loads(sys.stdin.buffer.readline())
    load = Load(**{**told, "access": Access(**told["access"])})
    payload = sys.stdin.buffer.read(load.bytes)
    open_connection = _grpc if load.protocol.startswith("grpc") else _http
    tally = Tally()
    try:
        connections = [await open_connection(load, payload) for _ in range(load.clients)]
    except RequestError as error:
        print(json.dumps({"error": f"{error.code}: {error.text}"}), flush=True)
        return
    print("ready", flush=True)
    sys.stdin.buffer.readline()
    for seconds in (load.warm_seconds, load.seconds):
        tally = Tally()
        started, used = time.monotonic(), time.process_time()
        await asyncio.gather(*(client(send, started + seconds, tally) for send, _ in connections))
        tally.elapsed, tally.cpu = time.monotonic() - started, time.process_time() - used
    for _, close in connections:
        close()
    print(json.dumps(vars(tally)), flush=True)  # asdict spoils a Counter


if __name__ == "__main__":
    uvloop.run(main())
