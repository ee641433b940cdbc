"""One stream of a connection, both of its halves, and who is told of it."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from app.errors import ServingError
from app.rpc.http2.headers import RequestHead


class Stream:
    """A stream, from its request's headers to the end of both sides.

    Attributes:
        id: its number.
        head: the request's headers.
        call: what the calls' side keeps with it.
        receive_window: bytes that the client may still send.
        ended: whether the client has sent all.
        hungry: whether the window opens again as data comes; if not, `Connection.feed` opens it.
        window: bytes that the client takes.
        queue: data that waits to be sent.
        trailers: the block that ends the stream after it; None while more may follow.
        begun: whether the headers of the answer were sent.
        done: whether the end was sent, or nothing more will be.
    """

    __slots__ = (
        "begun",
        "call",
        "done",
        "ended",
        "head",
        "hungry",
        "id",
        "queue",
        "receive_window",
        "trailers",
        "window",
    )

    def __init__(self, number: int, head: RequestHead, *, window: int, receive_window: int) -> None:
        """Begin with the windows that the two sides have announced."""
        self.id = number
        self.head = head
        self.call: Any = None
        self.receive_window = receive_window
        self.ended = False
        self.hungry = True
        self.window = window
        self.queue: deque[memoryview] = deque()
        self.trailers: bytes | None = None
        self.begun = False
        self.done = False


class Calls(Protocol):
    """What is told of the streams."""

    @property
    def held_bytes(self) -> int:
        """Requests that are complete and wait for their turn."""

    def at_once(self, head: RequestHead, message: bytes) -> bytes | ServingError | None:
        """The answer to a request, if it is one that can be answered right now."""

    def answer(self, stream: Stream, answer: bytes | ServingError) -> None:
        """Send that answer on a stream."""

    def begin(self, stream: Stream) -> None:
        """The headers of a request are there."""

    def data(self, stream: Stream, payload: bytes | memoryview) -> None:
        """A part of its body."""

    def end(self, stream: Stream) -> None:
        """Its body is complete."""

    def gone(self, stream: Stream) -> None:
        """Nobody waits for its answer any more."""
