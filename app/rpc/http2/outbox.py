"""What waits to be sent on one connection: whole frames, and data that the client's windows hold back."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from app.rpc.http2 import frames
from app.rpc.http2.frames import ErrorCode, Http2ConnectionError, Http2StreamError
from app.rpc.http2.streams import Stream

# Beyond what is sent at once, data waits as it is and not in a second copy in a socket's buffer.
_TURN_BYTES = 1 << 20


class Outbox:
    """Makes frames of answers, in the order in which a client can take them.

    Attributes:
        waiting_bytes: data that waits for a window.
        sent_bytes: data that had to wait and was sent since.
        blocked: streams whose data waits, by number.
        window: how many bytes of data the client takes now, in all.
        initial_window: of streams to come, by the client's settings.
        max_frame: of data, by the client's settings.
    """

    def __init__(self, finished: Callable[[Stream], None]) -> None:
        """Begin with the defaults of HTTP/2; `finished` is told of each stream whose end is sent."""
        self._finished = finished
        self.waiting_bytes = 0
        self.sent_bytes = 0
        self.initial_window = frames.DEFAULT_WINDOW
        self.max_frame = frames.SMALLEST_MAX_FRAME
        self.window = frames.DEFAULT_WINDOW
        self._ready: list[bytes | memoryview] = []
        self._turn = _TURN_BYTES
        self.blocked: dict[int, Stream] = {}
        self._table_update = b""

    # --- frames ---

    def put(self, frame: bytes) -> None:
        """Send a frame that no window holds back."""
        self._ready.append(frame)

    def headers(self, stream: Stream, block: bytes) -> None:
        """Send the headers of an answer."""
        stream.begun = True
        block = self._first(block)
        self.put(frames.frame(frames.HEADERS, frames.END_HEADERS, stream.id, block))

    def reply(self, stream: Stream, block: bytes, message: bytes, trailers: bytes) -> None:
        """Send a whole answer: headers, one message and trailers."""
        size = len(message)
        if size > self.max_frame or size > stream.window or size > self.window or size > self._turn:
            self.headers(stream, block)
            self.data(stream, message)
            self.finish(stream, trailers)
            return
        block = self._first(block)
        self.window -= size
        self._turn -= size
        stream.done = True
        self._ready += (
            frames.head(len(block), frames.HEADERS, frames.END_HEADERS, stream.id) + block,
            frames.head(size, frames.DATA, 0, stream.id),
            message,
            frames.head(len(trailers), frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream.id)
            + trailers,
        )
        self._finished(stream)

    def put_answer(self, answer: Iterable[bytes], size: int) -> bool:
        """Send the frames of an answer on a new stream, if that may be done at once; whether it was.

        Args:
            answer: the frames.
            size: how many bytes of it are data; no more than `max_frame`.
        """
        if size > self.initial_window or size > self.window or size > self._turn or self._table_update:
            return False
        self.window -= size
        self._turn -= size
        self._ready += answer
        return True

    def data(self, stream: Stream, message: bytes) -> None:
        """Send a message, as far as windows allow; the rest follows when they open."""
        stream.queue.append(memoryview(message))
        self.waiting_bytes += len(message)
        self._send(stream)

    def finish(self, stream: Stream, trailers: bytes) -> None:
        """End a stream after what waits on it."""
        stream.trailers = trailers
        self._send(stream)

    def drop(self, stream: Stream) -> None:
        """Forget what waits on a stream."""
        self.waiting_bytes -= sum(map(len, stream.queue))
        stream.queue.clear()
        stream.done = True
        self.blocked.pop(stream.id, None)

    def _first(self, block: bytes) -> bytes:
        """`block`, after the confirmation of a smaller table that the client may wait for."""
        update, self._table_update = self._table_update, b""
        return update + block

    def shrink_table(self) -> None:
        """The client allows a smaller table than the one that is not used anyway: tell it so."""
        self._table_update = b"\x20"

    # --- windows ---

    def widen(self, increment: int) -> None:
        """The client takes more in all; Http2ConnectionError if that is more than a window can be."""
        if not increment:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "a window update of zero")
        self.window += increment
        if self.window > frames.LARGEST_WINDOW:
            raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "the window is too large")

    def widen_stream(self, stream: Stream, increment: int) -> None:
        """The client takes more on a stream; Http2StreamError if that is more than a window can be."""
        if not increment:
            raise Http2StreamError(stream.id, ErrorCode.PROTOCOL_ERROR)
        stream.window += increment
        if stream.window > frames.LARGEST_WINDOW:
            raise Http2StreamError(stream.id, ErrorCode.FLOW_CONTROL_ERROR)

    # --- what goes out ---

    def take(self) -> list[bytes | memoryview]:
        """What can be sent now, in order; ask again once it has been, for there may be more."""
        # One frame of each stream in turn: a large answer must not hold up small ones.
        moved = True
        while moved and self.blocked and self._turn > 0 and self.window > 0:
            moved = False
            for stream in list(self.blocked.values()):
                moved |= self._send(stream, at_most=1)
        ready, self._ready = self._ready, []
        self._turn = _TURN_BYTES
        return ready

    def _send(self, stream: Stream, at_most: int = -1) -> bool:
        """Send what windows allow of a stream, at most so many frames; whether anything was sent."""
        queue, sent = stream.queue, False
        while queue and at_most:
            first = queue[0]
            size = min(len(first), self.window, stream.window, self.max_frame, self._turn)
            if size <= 0 < len(first):
                break
            self._ready += (frames.head(size, frames.DATA, 0, stream.id), first[:size])
            self.window -= size
            self._turn -= size
            stream.window -= size
            self.waiting_bytes -= size
            self.sent_bytes += size
            at_most -= 1
            sent = True
            if size == len(first):
                queue.popleft()
            else:
                queue[0] = first[size:]
        if queue:
            self.blocked[stream.id] = stream
            return sent
        self.blocked.pop(stream.id, None)
        if stream.trailers is not None and not stream.done:
            stream.done = True
            flags = frames.END_HEADERS | frames.END_STREAM
            self.put(frames.frame(frames.HEADERS, flags, stream.id, self._first(stream.trailers)))
            self._finished(stream)
            sent = True
        return sent
