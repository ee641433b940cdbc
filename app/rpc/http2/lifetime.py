"""The streams of a connection, and how they and it come to an end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from app.rpc.http2 import frames
from app.rpc.http2.control import WASTE, Control
from app.rpc.http2.frames import ErrorCode, Http2ConnectionError
from app.rpc.http2.headers import RequestHead
from app.rpc.http2.limits import Limits, Patience
from app.rpc.http2.outbox import Outbox
from app.rpc.http2.streams import Calls, Stream

# Numbers of streams that were reset here: what was under way to them is no mistake of the client.
_RESETS_KEPT = 256
_DRAIN_PING = b"draining"
_ALIVE_PING = b"alive?  "


class Lifetime:
    """What a `Connection` is apart from reading frames.

    Attributes:
        outbox: what has to be sent.
        streams: those in use, by number.
        over: whether nothing more is read: the connection is to be closed once all is sent.
        fault: what the client did, if that is why it is over.
        heard: when something last came, on `time.monotonic`.
        draining: since when the client is told to go; None if it is not.
    """

    _calls: Calls

    def __init__(self, limits: Limits, now: Callable[[], float]) -> None:
        """Begin without streams; whoever inherits sets `_calls`, which is told of them."""
        self.outbox = Outbox(self._finished)
        self.streams: dict[int, Stream] = {}
        self.over = False
        self.fault: Http2ConnectionError | None = None
        self.draining: float | None = None
        self._now = now
        self.heard = now()
        self._limits = limits
        self._control = Control(self.outbox, limits)
        self._last = 0
        self._refuse_above = frames.LARGEST_WINDOW
        self._reset: deque[int] = deque(maxlen=_RESETS_KEPT)
        self._resets = Patience(*WASTE)
        self._answers = 0
        self._rewarded_bytes = 0

    @property
    def settled(self) -> bool:
        """Whether the client's settings came."""
        return self._control.settled

    # --- streams ---

    def _stream(self, number: int, head: RequestHead) -> Stream:
        window, receive_window = self.outbox.initial_window, self._limits.stream_window
        return Stream(number, head, window=window, receive_window=receive_window)

    @property
    def _full(self) -> bool:
        return len(self.streams) >= self._limits.max_streams

    def _must_have_been(self, number: int) -> None:
        """Refuse what concerns a stream that was never begun."""
        if not number % 2 or self._last < number <= self._refuse_above:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, f"stream {number} was never begun")

    # --- ends ---

    def reset(self, number: int, code: ErrorCode) -> None:
        """End a stream with an error; its call, if there is one, is told."""
        self.outbox.put(frames.rst_stream(number, code))
        self._reset.append(number)
        stream = self.streams.get(number)
        if stream is not None:
            self._forget(stream)
            self._calls.gone(stream)

    def _finished(self, stream: Stream) -> None:
        """The end of a stream is on its way."""
        self._answers += 1
        if not stream.ended:  # the client need not send the rest
            self.outbox.put(frames.rst_stream(stream.id, ErrorCode.NO_ERROR))
            self._reset.append(stream.id)
        self._forget(stream)

    def _reward(self) -> None:
        """Let answers count for the client: only what it may send because of them asks for that.

        So do parts of a large one: gRPC's clients ping while they receive it, to measure the connection.
        """
        if self._answers or self.outbox.sent_bytes != self._rewarded_bytes:
            self._rewarded_bytes = self.outbox.sent_bytes
            self._control.answered()
            self._resets.regain(self._answers)
            self._answers = 0

    def _forget(self, stream: Stream) -> None:
        del self.streams[stream.id]
        self.outbox.drop(stream)
        if not self.streams and self._refuse_above < frames.LARGEST_WINDOW:
            self.over = True

    def fail(self, fault: Http2ConnectionError) -> None:
        """End the connection for what the client did."""
        if not self.over:
            self.fault = fault
            self.outbox.put(frames.goaway(self._last, fault.code, fault.text))
            self.abort()

    def abort(self) -> None:
        """End the connection and all calls on it."""
        self.over = True
        while self.streams:
            stream = self.streams[next(iter(self.streams))]
            self._forget(stream)
            self._calls.gone(stream)

    def drain(self) -> None:
        """Tell the client to begin no new calls; those that are under way are still taken.

        Once the client has seen it, which its answer to a ping shows, the last stream is told.
        """
        if self.draining is None and not self.over:
            self.draining = self._now()
            self.outbox.put(frames.goaway(frames.LARGEST_WINDOW, ErrorCode.NO_ERROR))
            self.ping(_DRAIN_PING)

    def leave(self) -> None:
        """Take no call any more; the connection is over when the last one has its answer."""
        if self._refuse_above == frames.LARGEST_WINDOW and not self.over:
            self._refuse_above = self._last
            self.outbox.put(frames.goaway(self._last, ErrorCode.NO_ERROR))
            self.over = not self.streams

    @property
    def left(self) -> bool:
        """Whether no call is taken any more."""
        return self._refuse_above < frames.LARGEST_WINDOW

    def ping(self, payload: bytes = _ALIVE_PING) -> None:
        """Ask the client for a sign of life."""
        self.outbox.put(frames.frame(frames.PING, 0, 0, payload))

    def _acknowledged(self, payload: bytes) -> None:
        if payload == _DRAIN_PING and self.draining is not None:
            self.leave()
