"""HTTP/2 frames (RFC 9113): bytes to frames, however the bytes are split, and frames to bytes."""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterator, Mapping

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65535
SMALLEST_MAX_FRAME = 16384
LARGEST_MAX_FRAME = 2**24 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 4, 5, 6

_HEAD = struct.Struct(">BHBBL")
_HEAD_BYTES = 9
_SETTING = struct.Struct(">HL")
_WORD = struct.Struct(">L")
_STREAM_ID = 0x7FFFFFFF

# Kind, flags, stream, payload. The payload of DATA may be a view into what was received.
Frame = tuple[int, int, int, bytes | memoryview]
# Takes what was read and a position in it to another.
Ahead = Callable[[bytes, int], int]


class ErrorCode(enum.IntEnum):
    """Why a stream or a connection ended."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Http2ConnectionError(Exception):
    """The peer did what ends a connection.

    Attributes:
        code: for GOAWAY.
        text: for its debug data and the log.
    """

    def __init__(self, code: ErrorCode, text: str) -> None:
        """Keep both."""
        super().__init__(f"{code.name}: {text}")
        self.code = code
        self.text = text


class Http2StreamError(Exception):
    """The peer did what ends one stream.

    Attributes:
        stream: its number.
        code: for RST_STREAM.
    """

    def __init__(self, stream: int, code: ErrorCode) -> None:
        """Keep both."""
        super().__init__(f"stream {stream}: {code.name}")
        self.stream = stream
        self.code = code


class FrameParser:
    """Cuts a stream of bytes into frames.

    Keeps at most `max_buffered` bytes of a frame that is not complete: DATA is handed on in pieces as it
    arrives, only the last of which has END_STREAM, and frames of unknown kinds lose their payload.

    Attributes:
        idle: whether the next byte begins a frame.
    """

    def __init__(self, max_frame: int, max_buffered: int) -> None:
        """Accept payloads of up to `max_frame` bytes, `max_buffered` of those that are not DATA."""
        self._max_frame = max_frame
        self._max_buffered = max_buffered
        self._tail = b""
        self._left = 0
        self._frame = (0, 0, 0)  # what the bytes that are left belong to: kind, flags, stream
        self.idle = True

    @property
    def buffered(self) -> int:
        """How many bytes of an incomplete frame are kept."""
        return len(self._tail)

    def feed(self, data: bytes, ahead: Ahead | None = None, shown: int = -1) -> Iterator[Frame]:
        """The frames, or pieces of DATA, that `data` completes.

        Args:
            data: what was read.
            ahead: shown where each frame begins; it may take whole frames, and says where the next begins.
            shown: how far it has taken `data` already; negative if it was not asked.

        Raises:
            Http2ConnectionError: a frame is larger than allowed; the frames before it are given first.
        """
        self.idle = False
        if self._tail:
            data, self._tail = self._tail + data, b""
        position, size = max(0, shown), len(data)
        while position < size:
            if self._left:
                end = min(size, position + self._left)
                self._left -= end - position
                kind, flags, stream = self._frame
                if kind == DATA:
                    yield kind, flags if not self._left else 0, stream, _part(data, position, end)
                position = end
                continue
            if ahead is not None and position != shown and (position := ahead(data, position)) == size:
                break
            if size - position < _HEAD_BYTES:
                break
            high, low, kind, flags, stream = _HEAD.unpack_from(data, position)
            length = high << 16 | low
            stream &= _STREAM_ID
            passed_on = kind > CONTINUATION or (kind == DATA and not flags & PADDED)
            self._check(length, passed_on=passed_on)
            start, end = position + _HEAD_BYTES, position + _HEAD_BYTES + length
            if passed_on:
                position, self._left = start, length
                self._frame = kind, flags & END_STREAM, stream
                if not length or kind != DATA:
                    yield kind, flags, stream, b""
            elif end > size:
                break
            else:
                position = end
                yield kind, flags, stream, data[start:end]
        self._tail = data[position:]
        self.idle = position == size and not self._left

    def _check(self, length: int, *, passed_on: bool) -> None:
        if length > self._max_frame:
            raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if not passed_on and length > self._max_buffered:
            raise Http2ConnectionError(
                ErrorCode.ENHANCE_YOUR_CALM, f"a frame of {length} bytes that is no data"
            )


def _part(data: bytes, start: int, end: int) -> bytes | memoryview:
    """A part of `data`: a copy, unless it is so large a part that keeping all of `data` is cheaper."""
    if (end - start) * 4 < len(data) or end - start < 4096:
        return data[start:end]
    return memoryview(data)[start:end]


def unpadded(flags: int, payload: bytes | memoryview) -> bytes | memoryview:
    """The payload of a DATA or HEADERS frame without its padding.

    Raises:
        Http2ConnectionError: there is more padding than payload.
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def word(payload: bytes | memoryview) -> int:
    """The number that a RST_STREAM or WINDOW_UPDATE frame consists of."""
    number: int = _WORD.unpack(payload)[0]
    return number


def read_settings(payload: bytes | memoryview) -> Mapping[int, int]:
    """The settings in a SETTINGS frame by number; the last of each counts."""
    return dict(_SETTING.iter_unpack(payload))


def head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The nine bytes before a payload of `length` bytes."""
    return _HEAD.pack(length >> 16, length & 0xFFFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return head(len(payload), kind, flags, stream) + payload


def settings(values: Mapping[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*item) for item in values.items()))


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, _WORD.pack(increment))


def rst_stream(stream: int, code: ErrorCode) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, _WORD.pack(code))


def goaway(last_stream: int, code: ErrorCode, text: str = "") -> bytes:
    """A GOAWAY frame: streams above `last_stream` were not and will not be looked at."""
    return frame(GOAWAY, 0, 0, _WORD.pack(last_stream) + _WORD.pack(code) + text.encode())
