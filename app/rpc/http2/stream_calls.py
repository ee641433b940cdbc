"""A call with any number of requests and answers: a task on the loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from app.errors import ServingError
from app.rpc.http2.connection import Connection
from app.rpc.http2.headers import OK_BLOCK, answer_block, encoding_for, status_block
from app.rpc.http2.limits import Limits
from app.rpc.http2.messages import Message, MessageReader, decompressed, prefixed, too_large
from app.rpc.http2.service import unexpected
from app.rpc.http2.streams import Stream
from app.rpc.method import Call, StreamMethod, decode, wire_message

# So many requests may wait for the method before the client has to.
_REQUESTS_KEPT = 16


class StreamCall:
    """Runs a `StreamMethod`, no faster than its client sends and takes."""

    def __init__(
        self,
        stream: Stream,
        method: StreamMethod,
        call: Call,
        connection: Connection,
        *,
        limits: Limits,
        flush: Callable[[], None],
    ) -> None:
        """Prepare; `run` does it, and whoever makes its task sets `task` and perhaps `timer`."""
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._stream = stream
        self._method = method
        self._call = call
        self._connection = connection
        self._limits = limits
        self._flush = flush
        self._reader = MessageReader(limits.max_receive)
        self._requests: deque[Message] = deque()
        self._ended = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    # --- told ---

    def feed(self, payload: bytes | memoryview) -> None:
        """Take a part of the requests."""
        self._requests.extend(self._reader.feed(payload))
        self._stream.hungry = len(self._requests) < _REQUESTS_KEPT
        self._news.set()

    def end(self) -> None:
        """There are no more requests."""
        self._ended = True
        self._news.set()

    def cancel(self) -> None:
        """Nobody waits for answers any more, or all is said."""
        if self.timer is not None:
            self.timer.cancel()
        if self.task is not None:
            self.task.cancel()

    def ready(self) -> bool:
        """Whether the method waits although the client has taken what was sent."""
        return not self._stream.queue and not self._room.is_set()

    def resume(self) -> None:
        """Let the method go on."""
        self._room.set()

    # --- the task ---

    async def run(self) -> None:
        """Answer until the method ends."""
        self._room.set()
        path, stream = self._stream.head.path, self._stream
        block = OK_BLOCK
        try:
            async for answer in self._method.handle(self._read(), self._call):
                self._send(answer.SerializeToString())
                await asyncio.sleep(0)  # a method that never waits must not keep the loop
                await self._room.wait()
            if not stream.begun:
                self._begin()
        except ServingError as error:
            block = self._status(error)
        except Exception as error:
            block = self._status(unexpected(path, error))
        if not stream.done:
            if self.timer is not None:
                self.timer.cancel()
            stream.call = None
            self._connection.outbox.finish(stream, block)
            self._flush()

    def _status(self, error: ServingError) -> bytes:
        return status_block(error.code, wire_message(error), alone=not self._stream.begun)

    async def _read(self) -> AsyncIterator[Any]:
        while True:
            while not self._requests:
                if self._ended:
                    return
                self._news.clear()
                await self._news.wait()
            message, compressed = self._requests.popleft()
            if not self._stream.hungry and not self._requests and not self._stream.done:
                self._stream.hungry = True
                self._connection.feed(self._stream)
                self._flush()
            if compressed:
                message = decompressed(message, self._stream.head.encoding, self._limits.max_receive)
            yield decode(self._method.request, message)

    def _begin(self) -> None:
        encoding = encoding_for(self._stream.head, self._limits.compression)
        self._connection.outbox.headers(self._stream, answer_block(encoding))

    def _send(self, answer: bytes) -> None:
        error = too_large(answer, self._limits.max_send)
        if error is not None:
            raise error
        if self._stream.done:
            return
        if not self._stream.begun:
            self._begin()
        encoding = encoding_for(self._stream.head, self._limits.compression)
        self._connection.outbox.data(self._stream, prefixed(answer, encoding))
        if self._stream.queue:
            self._room.clear()
        self._flush()
