"""Header blocks as they come in frames: in one HEADERS frame, or with CONTINUATION frames after it."""

from __future__ import annotations

from app.rpc.http2 import frames
from app.rpc.http2.frames import ErrorCode, Http2ConnectionError
from app.rpc.http2.headers import LARGEST_BLOCK

_MOST_CONTINUATIONS = 64
_PRIORITY_BYTES = 5

# Flags and stream of the HEADERS frame, and all of the block.
Block = tuple[int, int, bytes]


class BlockReader:
    """Puts header blocks together; no other frame may come while one lacks a part.

    Attributes:
        within: whether a block has begun that is not complete.
    """

    def __init__(self) -> None:
        """Begin without one."""
        self._parts: list[bytes] = []
        self._flags = self._stream = 0
        self.within = False

    def feed(self, kind: int, flags: int, stream: int, payload: bytes | memoryview) -> Block | None:
        """The block, if this HEADERS or CONTINUATION frame completes it.

        Raises:
            Http2ConnectionError: for frames of another form or order, and for too long a block.
        """
        if kind == frames.HEADERS:
            payload = _fragment(flags, stream, payload)
            if flags & frames.END_HEADERS:
                return flags, stream, bytes(payload)
            self._flags, self._stream, self._parts = flags, stream, [bytes(payload)]
            self.within = True
            return None
        if not self._parts or stream != self._stream:
            raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, "a continuation of nothing")
        self._parts.append(bytes(payload))
        if len(self._parts) > _MOST_CONTINUATIONS or sum(map(len, self._parts)) > LARGEST_BLOCK:
            raise Http2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too long a header block")
        if not flags & frames.END_HEADERS:
            return None
        block, self._parts = b"".join(self._parts), []
        self.within = False
        return self._flags, stream, block


def _fragment(flags: int, stream: int, payload: bytes | memoryview) -> bytes | memoryview:
    if not stream % 2:
        raise Http2ConnectionError(ErrorCode.PROTOCOL_ERROR, f"headers on stream {stream}")
    if flags & frames.PADDED:
        payload = frames.unpadded(flags, payload)
    if not flags & frames.WITH_PRIORITY:
        return payload
    if len(payload) < _PRIORITY_BYTES:
        raise Http2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "headers without their priority")
    return payload[_PRIORITY_BYTES:]
