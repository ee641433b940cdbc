"""One HTTP/2 connection of a server, without input or output: bytes in, calls and frames out."""

from __future__ import annotations

import time
from collections.abc import Callable

from app.rpc.http2 import frames
from app.rpc.http2.blocks import BlockReader
from app.rpc.http2.express import Answer, Express
from app.rpc.http2.frames import ErrorCode, FrameParser, Http2ConnectionError, Http2StreamError
from app.rpc.http2.headers import LARGEST_BLOCK, HeaderReader, RequestHead
from app.rpc.http2.intake import Intake
from app.rpc.http2.lifetime import Lifetime
from app.rpc.http2.limits import Limits
from app.rpc.http2.streams import Calls, Stream


class Connection(Lifetime):
    """The server's side of a connection: reads what the client sends."""

    def __init__(
        self,
        make_calls: Callable[[Connection], Calls],
        limits: Limits,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put the server's settings into the outbox; `make_calls` makes what the streams are told to."""
        super().__init__(limits, now)
        self._calls = make_calls(self)
        self._preface = frames.PREFACE
        self._parser = FrameParser(limits.max_frame, LARGEST_BLOCK)
        self._headers = HeaderReader()
        self._blocks = BlockReader()
        self.outbox.put(frames.settings(limits.announced))
        self._intake = Intake(self.outbox, limits.connection_window)
        self._express = Express(self._headers.known, self.outbox, self._intake, limits, self._calls.at_once)

    # --- in ---

    def receive(self, data: bytes) -> None:
        """Take what the client sent, split in whatever way."""
        if self.over:
            return
        self.heard = self._now()
        try:
            if self._preface:
                data = self._after_preface(data)
            taken = self._ahead(data, 0) if self._parser.idle else -1
            if taken == len(data):
                return
            for kind, flags, number, payload in self._parser.feed(data, self._ahead, taken):
                try:
                    self._frame(kind, flags, number, payload)
                except Http2StreamError as fault:
                    self._control.waste(self.heard, "mistakes")
                    self.reset(fault.stream, fault.code)
                if self.over:
                    return
        except Http2ConnectionError as fault:
            self.fail(fault)

    def _after_preface(self, data: bytes) -> bytes:
        size = min(len(data), len(self._preface))
        if data[:size] != self._preface[:size]:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
        self._preface = self._preface[size:]
        return data[size:]

    def _ahead(self, data: bytes, position: int) -> int:
        """Let requests be answered that need no stream; where the next frame begins."""
        if self._blocks.within or not self._control.settled:
            return position
        if self._refuse_above < frames.LARGEST_WINDOW or len(self.streams) >= self._limits.max_streams:
            return position  # `left` and `_full`, without their calls
        position, self._last, answered = self._express.take(data, position, self._last, self._late)
        self._answers += answered
        return position

    def _late(self, number: int, head: RequestHead, answer: Answer, more: int) -> None:
        """Send an answer that has to wait for the client, or says that the call failed.

        Args:
            number: of the stream.
            head: of the request.
            answer: to it.
            more: by how much the client has widened the stream's window.
        """
        self._last = number
        stream = self.streams[number] = self._stream(number, head)
        stream.ended = True
        stream.window += more
        self._calls.answer(stream, answer)

    def _frame(self, kind: int, flags: int, number: int, payload: bytes | memoryview) -> None:
        if self._blocks.within and kind != frames.CONTINUATION:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
        if kind == frames.DATA and self._control.settled:
            self._on_data(flags, number, payload)
        elif kind == frames.SETTINGS:
            self._control.waste(self.heard, "settings")
            self._control.settings(flags, number, payload, self.streams.values())
        elif not self._control.settled:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "the first frame is no SETTINGS")
        elif kind in (frames.HEADERS, frames.CONTINUATION):
            block = self._blocks.feed(kind, flags, number, payload)
            if block is not None:
                self._on_block(*block)
        elif kind == frames.WINDOW_UPDATE:
            self._on_window_update(number, payload)
        elif kind == frames.RST_STREAM:
            self._on_reset(number, payload)
        elif kind == frames.PING:
            self._reward()
            self._control.ping(
                flags,
                number,
                payload,
                self.heard,
                has_calls=bool(self.streams),
                acknowledged=self._acknowledged,
            )
        else:
            self._control.other(kind, number, payload, self.heard)

    def _on_block(self, flags: int, number: int, block: bytes) -> None:
        head = self._headers.read(block)  # first of all: every block counts for the table
        ended = bool(flags & frames.END_STREAM)
        stream = self.streams.get(number)
        if stream is not None:
            if not ended or stream.ended:
                code = ErrorCode.STREAM_CLOSED if stream.ended else ErrorCode.PROTOCOL_ERROR
                raise Http2StreamError(number, code)
            stream.ended = True
            self._calls.end(stream)
            return
        if number <= self._last:
            if number in self._reset:
                return
            raise Http2ConnectionError(ErrorCode.STREAM_CLOSED, f"headers on stream {number}")
        if number > self._refuse_above:
            return
        self._last = number
        if not head.well_formed:
            raise Http2StreamError(number, ErrorCode.PROTOCOL_ERROR)
        if self._full:
            raise Http2StreamError(number, ErrorCode.REFUSED_STREAM)
        stream = self.streams[number] = self._stream(number, head)
        stream.ended = ended
        self._calls.begin(stream)
        if ended and not stream.done:
            self._calls.end(stream)

    def _on_data(self, flags: int, number: int, payload: bytes | memoryview) -> None:
        ended = bool(flags & frames.END_STREAM)
        stream = self._receiver(number, len(payload), ended=ended)
        if stream is None:
            return
        stream.ended = ended
        content = frames.unpadded(flags, payload) if flags & frames.PADDED else payload
        if content:
            self._calls.data(stream, content)
        if ended:
            if not stream.done:
                self._calls.end(stream)
        elif stream.hungry:
            self.feed(stream)

    def _receiver(self, number: int, size: int, *, ended: bool) -> Stream | None:
        """The stream that data is for, if the windows allow it; None for one that was reset."""
        self._intake.take(size)
        if not size and not ended:
            self._control.waste(self.heard, "empty frames")
        self.replenish()
        stream = self.streams.get(number)
        if stream is None:
            self._must_have_been(number)
            if number in self._reset or number > self._refuse_above:
                self._control.waste(self.heard, "frames of streams that were reset")
                return None
        if stream is None or stream.ended:
            raise Http2StreamError(number, ErrorCode.STREAM_CLOSED)
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise Http2StreamError(number, ErrorCode.FLOW_CONTROL_ERROR)
        return stream

    def _on_reset(self, number: int, payload: bytes | memoryview) -> None:
        if len(payload) != 4:
            raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a reset of another size")
        self._reward()
        if not self._resets.spend(self.heard):
            raise Http2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many resets")
        stream = self.streams.get(number)
        if stream is None:
            self._must_have_been(number)
        else:
            self._forget(stream)
            self._calls.gone(stream)

    def _on_window_update(self, number: int, payload: bytes | memoryview) -> None:
        if len(payload) != 4:
            raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a window update of another size")
        increment = frames.word(payload) & frames.LARGEST_WINDOW
        stream = self.streams.get(number)
        if not number:
            self.outbox.widen(increment)
        elif stream is not None:
            self.outbox.widen_stream(stream, increment)
        else:
            self._must_have_been(number)

    # --- windows of the client's data ---

    def replenish(self) -> None:
        """Let the client send more in all, unless it has enough to wait for."""
        intake = self._intake
        if intake.taken * 2 >= intake.window and not self.congested:
            intake.reopen()

    def feed(self, stream: Stream) -> None:
        """Let the client send more on a stream."""
        missing = self._limits.stream_window - stream.receive_window
        if missing * 2 >= self._limits.stream_window:
            stream.receive_window += missing
            self.outbox.put(frames.window_update(stream.id, missing))

    @property
    def output_full(self) -> bool:
        """Whether so many answers wait that no more should be made."""
        return self.outbox.waiting_bytes > self._limits.max_output

    @property
    def congested(self) -> bool:
        """Whether so much waits, answers or requests, that the client should send no more."""
        return self.output_full or self._calls.held_bytes > self._limits.max_output
