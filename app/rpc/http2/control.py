"""The frames that concern a connection as a whole: SETTINGS, PING, GOAWAY, and those of no effect."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from app.rpc.http2 import frames
from app.rpc.http2.frames import ErrorCode, Http2ConnectionError, Http2StreamError
from app.rpc.http2.limits import Limits, Patience, PingWatch
from app.rpc.http2.outbox import Outbox
from app.rpc.http2.streams import Stream

# As nghttp2 has it: so many at once, so many a second.
WASTE = (1000, 33)
_DEFAULT_TABLE = 4096


class Control:
    """Answers what a client says of the connection, and loses patience with one that says too much.

    Attributes:
        settled: whether the client's settings came.
    """

    def __init__(self, outbox: Outbox, limits: Limits) -> None:
        """Answer through `outbox`."""
        self.settled = False
        self._outbox = outbox
        self._limits = limits
        self._pings = PingWatch(limits)
        self._waste = Patience(*WASTE)

    def waste(self, now: float, what: str) -> None:
        """Bear with a frame that did no good; Http2ConnectionError if there were too many."""
        if not self._waste.spend(now):
            raise Http2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, f"too many {what}")

    def answered(self) -> None:
        """A call was answered, which entitles the client to pings."""
        self._pings.answered()

    def settings(
        self, flags: int, number: int, payload: bytes | memoryview, streams: Iterable[Stream]
    ) -> None:
        """Put the client's settings into force, for all streams."""
        if number:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "settings of a stream")
        if len(payload) % 6 or (flags & frames.ACK and payload):
            raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "settings of another size")
        if flags & frames.ACK:
            if not self.settled:
                raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "the first frame is no SETTINGS")
            return
        self.settled = True
        values = frames.read_settings(payload)
        window = values.get(frames.INITIAL_WINDOW_SIZE, self._outbox.initial_window)
        self._check(values, window)
        self._outbox.max_frame = values.get(frames.MAX_FRAME_SIZE, self._outbox.max_frame)
        if values.get(frames.HEADER_TABLE_SIZE, _DEFAULT_TABLE) < _DEFAULT_TABLE:
            self._outbox.shrink_table()
        change, self._outbox.initial_window = window - self._outbox.initial_window, window
        for stream in streams:
            stream.window += change
            if stream.window > frames.LARGEST_WINDOW:
                raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
        self._outbox.put(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _check(self, values: Mapping[int, int], window: int) -> None:
        if values.get(frames.ENABLE_PUSH, 0) > 1:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "bad ENABLE_PUSH")
        largest = values.get(frames.MAX_FRAME_SIZE, self._outbox.max_frame)
        if not frames.SMALLEST_MAX_FRAME <= largest <= frames.LARGEST_MAX_FRAME:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "bad MAX_FRAME_SIZE")
        if window > frames.LARGEST_WINDOW:
            raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "bad INITIAL_WINDOW_SIZE")

    def ping(
        self,
        flags: int,
        number: int,
        payload: bytes | memoryview,
        now: float,
        *,
        has_calls: bool,
        acknowledged: Callable[[bytes], None],
    ) -> None:
        """Answer a ping, or tell `acknowledged` of the answer to ours."""
        if number:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "a ping of a stream")
        if len(payload) != 8:
            raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a ping of another size")
        if flags & frames.ACK:
            self.waste(now, "pings")
            acknowledged(bytes(payload))
            return
        if not self._pings.tolerates(now, has_calls=has_calls):
            raise Http2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")
        self._outbox.put(frames.frame(frames.PING, frames.ACK, 0, bytes(payload)))

    def other(self, kind: int, number: int, payload: bytes | memoryview, now: float) -> None:
        """Pass over GOAWAY, PRIORITY and kinds that do not exist; refuse a push."""
        if kind == frames.PUSH_PROMISE:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "a client cannot push")
        if kind == frames.GOAWAY and number:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "a goaway of a stream")
        if kind == frames.GOAWAY and len(payload) < 8:
            raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a goaway of another size")
        if kind == frames.PRIORITY and not number:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "a priority of nothing")
        if kind == frames.PRIORITY and len(payload) != 5:
            raise Http2StreamError(number, ErrorCode.FRAME_SIZE_ERROR)
        self.waste(now, "frames of no effect")
