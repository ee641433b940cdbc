"""The client's side of a connection in memory, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import hpack

from app.errors import ServingError
from app.rpc.http2 import frames
from app.rpc.http2.connection import Connection
from app.rpc.http2.frames import ErrorCode, FrameParser
from app.rpc.http2.headers import OK_BLOCK, RequestHead, answer_block
from app.rpc.http2.limits import Limits
from app.rpc.http2.messages import prefixed
from app.rpc.http2.streams import Stream

HELLO = frames.PREFACE + frames.settings({})
REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Service/Echo"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


def headers(
    number: int,
    fields: Iterable[tuple[str, str]] = REQUEST,
    encoder: hpack.Encoder | None = None,
    flags: int = 4,
) -> bytes:
    """A HEADERS frame; END_HEADERS alone is set unless `flags` say otherwise."""
    block = (encoder or hpack.Encoder()).encode(list(fields))
    return frames.frame(frames.HEADERS, flags, number, block)


def data(number: int, payload: bytes, *, end: bool = False) -> bytes:
    """A DATA frame."""
    return frames.frame(frames.DATA, frames.END_STREAM if end else 0, number, payload)


def request(number: int, message: bytes = b"hello", encoder: hpack.Encoder | None = None) -> bytes:
    """A whole unary request."""
    return headers(number, encoder=encoder) + data(number, prefixed(message), end=True)


class Echo:
    """Answers each request with its body, which is taken to be one message."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.bodies: dict[int, bytearray] = {}
        self.events: list[tuple[str, int]] = []
        self.held_bytes = 0
        self.answering = True

    def at_once(self, head: RequestHead, message: bytes) -> bytes | ServingError | None:
        del head, message
        return None

    def begin(self, stream: Stream) -> None:
        self.bodies[stream.id] = bytearray()
        self.events.append(("begin", stream.id))

    def data(self, stream: Stream, payload: bytes | memoryview) -> None:
        self.bodies[stream.id] += payload

    def end(self, stream: Stream) -> None:
        self.events.append(("end", stream.id))
        if self.answering:
            self.answer(stream, bytes(self.bodies[stream.id]))

    def answer(self, stream: Stream, answer: bytes | ServingError) -> None:
        assert isinstance(answer, bytes)
        self.connection.outbox.reply(stream, answer_block(), answer, OK_BLOCK)

    def gone(self, stream: Stream) -> None:
        self.events.append(("gone", stream.id))


class Client:
    """A client of a `Connection` of its own, which has been greeted."""

    def __init__(
        self,
        *,
        now: Callable[[], float] = lambda: 100.0,
        hello: bytes = HELLO,
        echo: type[Echo] = Echo,
        **limits: Any,
    ) -> None:
        self.calls: Any = None
        self._echo = echo
        self.connection = Connection(self._make_calls, Limits(**limits), now)
        self._parser = FrameParser(1 << 24, 1 << 24)
        self._decoder = hpack.Decoder()
        self.greeting = self.read()
        self.send(hello)

    def _make_calls(self, connection: Connection) -> Echo:
        echo = self.calls = self._echo(connection)
        return echo

    def send(self, *parts: bytes) -> list[Any]:
        """Let the server have these bytes, and read what it says."""
        for part in parts:
            self.connection.receive(part)
        return self.read()

    def read(self) -> list[Any]:
        """What the server says: (kind, flags, stream, payload) with headers and numbers decoded."""
        said = []
        while ready := self.connection.outbox.take():
            for kind, flags, number, payload in self._parser.feed(b"".join(ready)):
                said.append(self._meaning(kind, flags, number, bytes(payload)))
            self.connection.replenish()
        return said

    def _meaning(self, kind: int, flags: int, number: int, payload: bytes) -> Any:
        if kind == frames.HEADERS:
            return kind, flags, number, dict(self._decoder.decode(payload))
        if kind in (frames.WINDOW_UPDATE, frames.RST_STREAM):
            return kind, flags, number, frames.word(payload)
        if kind == frames.GOAWAY:
            last, code = frames.word(payload[:4]), frames.word(payload[4:8])
            return kind, flags, last, (ErrorCode(code).name, payload[8:].decode())
        return kind, flags, number, payload


def kinds(said: list[Any], kind: int) -> list[Any]:
    """Only the frames of one kind."""
    return [frame for frame in said if frame[0] == kind]


def body_of(said: list[Any], number: int) -> bytes:
    """The data of one stream."""
    return b"".join(payload for kind, _, stream, payload in said if kind == frames.DATA and stream == number)


def failure_of(said: list[Any]) -> str:
    """The error that a connection ended with."""
    ((_, _, _, (code, _)),) = kinds(said, frames.GOAWAY)
    return str(code)


def resets_of(said: list[Any]) -> list[tuple[int, str]]:
    """The streams that were reset, and why."""
    return [(number, ErrorCode(code).name) for _, _, number, code in kinds(said, frames.RST_STREAM)]
