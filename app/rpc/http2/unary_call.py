"""A call with one request and one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future

from app.rpc.http2.headers import RequestHead
from app.rpc.http2.messages import Message, MessageReader
from app.rpc.http2.streams import Stream
from app.rpc.method import Call, Method
from app.telemetry.observation import Observation

# A longer deadline than TensorFlow Serving can express in milliseconds is none.
_NO_DEADLINE_SECONDS = (2**31 - 1) / 1000


class UnaryCall:
    """One request that waits, runs, or is answered."""

    __slots__ = ("call", "future", "leave", "message", "method", "reader", "seen", "stream", "timer")

    def __init__(
        self, stream: Stream, method: Method, deadline: float | None, leave: Callable[[], None]
    ) -> None:
        """Begin without a message; `leave` gives the place of the call back."""
        self.stream = stream
        self.method = method
        self.call = Call(deadline)
        self.message: Message | None = None
        self.reader: MessageReader | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.future: Future[None] | None = None
        self.seen: Observation | None = None
        self.leave = leave

    def cancel(self) -> None:
        """Nobody waits any more: no clock need run, and only what runs in a thread keeps its place."""
        if self.timer is not None:
            self.timer.cancel()
        if self.future is None or self.future.cancelled():
            self.leave()

    @property
    def size(self) -> int:
        """Of its message, in bytes; 0 without one."""
        return len(self.message[0]) if self.message is not None else 0


def deadline_of(head: RequestHead, heard: float) -> float | None:
    """When a call has to be answered, on `time.monotonic`, that began at `heard`; None: whenever."""
    if head.timeout is None or head.timeout >= _NO_DEADLINE_SECONDS:
        return None
    return heard + head.timeout
