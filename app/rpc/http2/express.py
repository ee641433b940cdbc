"""The short way through a connection: requests that came as a whole and are answered on the spot.

Most unary requests are one HEADERS frame with a block that was seen before and one DATA frame with a whole
message. gRPC's C core, on which Python's clients stand, puts a WINDOW_UPDATE of the stream between them, and
often one of the connection behind. Where a handler may run on the loop and the answer fits into the client's
windows, nothing has to be remembered of them: no stream, no call, no timer. What is different in any way is
left, untouched, to `Connection`, which would have given the same answer.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache

from app.errors import ServingError
from app.rpc.http2 import frames
from app.rpc.http2.headers import OK_BLOCK, RequestHead, answer_block
from app.rpc.http2.intake import Intake
from app.rpc.http2.limits import Limits
from app.rpc.http2.messages import PREFIX_BYTES, prefix
from app.rpc.http2.outbox import Outbox

_FRAME = struct.Struct(">BHBBL")
_FRAME_BYTES = 9
_KIND = 3  # where it stands in them
_DATA_AND_PREFIX = struct.Struct(">BHBBLBL")
_BOTH_BYTES = _FRAME_BYTES + PREFIX_BYTES
_UPDATE = struct.Struct(">BHBBLL")
_UPDATE_BYTES, _INCREMENT_BYTES = _UPDATE.size, 4
_END_BOTH = frames.END_HEADERS | frames.END_STREAM

# The frames of an answer but for the stream's number, which stands at the end of each head.
_BEFORE_NUMBER = 5
_BLOCK = answer_block()
_OPENING = frames.head(len(_BLOCK), frames.HEADERS, frames.END_HEADERS, 0)[:_BEFORE_NUMBER]
_CLOSING = frames.head(len(OK_BLOCK), frames.HEADERS, _END_BOTH, 0)[:_BEFORE_NUMBER]
# Sizes of answers whose parts are remembered: most methods have few.
_SIZES_KEPT = 256
# Above it, an answer is not copied once more to be one piece.
_LARGEST_JOINED = 16 << 10

Answer = bytes | ServingError
AtOnce = Callable[[RequestHead, bytes], Answer | None]
Late = Callable[[int, RequestHead, Answer, int], None]


class Express:
    """Takes whole requests out of what was read."""

    def __init__(
        self, known: dict[bytes, RequestHead], outbox: Outbox, intake: Intake, limits: Limits, at_once: AtOnce
    ) -> None:
        """Answer through `outbox` what `at_once` answers: it returns None for what it does not.

        Args:
            known: what header blocks mean, by their bytes; the header reader's own memory.
            outbox: of the connection.
            intake: of the connection.
            limits: of the connection.
            at_once: headers and message to the answer.
        """
        self._known = known
        self._outbox = outbox
        self._intake = intake
        self._stream_window = limits.stream_window
        self._max_frame = limits.max_frame
        self._at_once = at_once

    def take(self, data: bytes, position: int, last: int, late: Late) -> tuple[int, int, int]:
        """Answer the requests that stand in `data` one after the other.

        Args:
            data: what was read.
            position: in it, where a frame begins.
            last: the highest number that a stream had.
            late: told of a request whose answer cannot be sent like this: number, headers, answer, and how
                much more of it than usual the client takes at once, in bytes.

        Returns:
            Where the first frame begins that was not taken, the new `last`, and how many were answered.
        """
        outbox, intake, known, at_once = self._outbox, self._intake, self._known, self._at_once
        size, answered = len(data), 0
        while size - position > _FRAME_BYTES:
            high, length, kind, flags, number = _FRAME.unpack_from(data, position)
            middle = after = position + _FRAME_BYTES + length
            if kind == frames.WINDOW_UPDATE and (more := self._increment(data, position, 0, outbox.window)):
                outbox.window += more
                position = after
                continue
            if kind != frames.HEADERS or flags != frames.END_HEADERS or high or middle + _BOTH_BYTES > size:
                break
            more = 0
            if data[middle + _KIND] == frames.WINDOW_UPDATE:
                more = self._increment(data, middle, number, outbox.initial_window)
                after += _UPDATE_BYTES
                if not more or after + _BOTH_BYTES > size:
                    break
            high, low, kind, flags, again, compressed, length = _DATA_AND_PREFIX.unpack_from(data, after)
            payload = high << 16 | low
            end = after + _FRAME_BYTES + payload
            if (
                kind != frames.DATA
                or flags != frames.END_STREAM
                or again != number
                or end > size
                or compressed
                or length != payload - PREFIX_BYTES
                or not last < number < frames.LARGEST_WINDOW
                or not number & 1
                or payload > self._max_frame
                or payload > self._stream_window
                or intake.taken + payload > intake.window
            ):
                break
            head = known.get(data[position + _FRAME_BYTES : middle])
            if head is None:
                break
            answer = at_once(head, data[after + _BOTH_BYTES : end])
            if answer is None:
                break
            intake.taken += payload
            named = data[position + _BEFORE_NUMBER : position + _FRAME_BYTES]
            position, last = end, number
            if (
                isinstance(answer, bytes)
                and (length := len(answer) + PREFIX_BYTES) <= outbox.max_frame
                and outbox.put_answer(_framed(named, answer), length)
            ):
                answered += 1
            else:
                late(number, head, answer, more)
                break  # it has a stream now, of which there may be only so many
        return position, last, answered

    @staticmethod
    def _increment(data: bytes, position: int, stream: int, window: int) -> int:
        """By how much the frame at `position` widens the window of `stream`; 0 if it is another, or wrong."""
        if len(data) - position < _UPDATE_BYTES:
            return 0
        high, length, kind, _, number, more = _UPDATE.unpack_from(data, position)
        right = not high and length == _INCREMENT_BYTES and kind == frames.WINDOW_UPDATE and number == stream
        return more if right and window + more <= frames.LARGEST_WINDOW else 0


def _framed(number: bytes, message: bytes) -> tuple[bytes, ...]:
    """The frames of an answer on the stream of this number: headers, the message, trailers."""
    between, before = _before(len(message))
    parts = (_OPENING, number, between, number, before, message, _CLOSING, number, OK_BLOCK)
    return (b"".join(parts),) if len(message) <= _LARGEST_JOINED else parts


@lru_cache(maxsize=_SIZES_KEPT)
def _before(length: int) -> tuple[bytes, bytes]:
    """What stands before and after the second number of an answer whose message has this length."""
    return _BLOCK + frames.head(length + PREFIX_BYTES, frames.DATA, 0, 0)[:_BEFORE_NUMBER], prefix(length)
