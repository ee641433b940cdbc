"""gRPC's messages within a stream: five bytes of flag and length, then the message, perhaps compressed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from app.errors import Code, ServingError

_PREFIX = struct.Struct(">BL")
PREFIX_BYTES = 5
# So many small pieces in a row are joined: a piece of one byte costs fifty.
_LOOSE = 128
_SMALL = 4096

_WBITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

Message = tuple[bytes, bool]


class MessageReader:
    """Puts the messages of one stream together from the payloads of its DATA frames."""

    __slots__ = ("_compressed", "_left", "_limit", "_loose", "_parts", "_prefix")

    def __init__(self, limit: int) -> None:
        """Refuse messages of more than `limit` bytes; negative: none."""
        self._limit = limit
        self._prefix = b""
        self._left = -1  # bytes that the message lacks; -1 while its length is not known
        self._compressed = False
        self._parts: list[bytes | memoryview] = []
        self._loose = 0

    def feed(self, data: bytes | memoryview) -> Iterator[Message]:
        """The messages that `data` completes, each with whether it is compressed.

        Raises:
            ServingError: RESOURCE_EXHAUSTED as soon as a message is known to be too long, INTERNAL for
                a flag that does not exist.
        """
        position = 0
        while True:
            if self._left < 0:
                needed = PREFIX_BYTES - len(self._prefix)
                self._prefix += bytes(data[position : position + needed])
                position += needed
                if len(self._prefix) < PREFIX_BYTES:
                    return
                self._begin()
            end = position + self._left
            if end > len(data):
                if position < len(data):
                    self._keep(data[position:])
                return
            last = data[position:end]
            position = end
            if self._parts:
                message = b"".join([*self._parts, last])
                self._parts, self._loose = [], 0
            else:
                message = bytes(last)
            self._left, self._prefix = -1, b""
            yield message, self._compressed
            if position == len(data):
                return

    @property
    def within(self) -> bool:
        """Whether a message has begun that is not complete."""
        return bool(self._prefix)

    def _begin(self) -> None:
        flag, self._left = _PREFIX.unpack(self._prefix)
        self._compressed = flag == 1
        if flag > 1:
            raise ServingError(Code.INTERNAL, f"Invalid message flag {flag}.")
        if 0 <= self._limit < self._left:
            raise ServingError(
                Code.RESOURCE_EXHAUSTED,
                f"SERVER: Received message larger than max ({self._left} vs. {self._limit})",
            )

    def _keep(self, part: bytes | memoryview) -> None:
        self._left -= len(part)
        self._parts.append(part)
        self._loose = self._loose + 1 if len(part) < _SMALL else 0
        if self._loose == _LOOSE:
            self._parts[-_LOOSE:] = [b"".join(self._parts[-_LOOSE:])]
            self._loose = 0


def prefix(length: int) -> bytes:
    """What stands before a message of so many bytes that is not compressed."""
    return _PREFIX.pack(0, length)


def prefixed(message: bytes, encoding: str = "identity") -> bytes:
    """A message as it stands in a stream, compressed with `encoding`."""
    if encoding == "identity":
        return prefix(len(message)) + message
    compressor = zlib.compressobj(wbits=_WBITS[encoding])
    body = compressor.compress(message) + compressor.flush()
    return _PREFIX.pack(1, len(body)) + body


def decompressed(message: bytes, encoding: str, limit: int) -> bytes:
    """The content of a compressed message.

    Args:
        message: as received.
        encoding: that the request's headers name.
        limit: of the content, in bytes; negative: none.

    Raises:
        ServingError: UNIMPLEMENTED for an encoding that is not known, INTERNAL for what does not
            decompress, RESOURCE_EXHAUSTED for too much content.
    """
    if encoding == "identity":
        raise ServingError(Code.INTERNAL, "A compressed message without an encoding.")
    if encoding not in _WBITS:
        raise ServingError(Code.UNIMPLEMENTED, f"Compression algorithm '{encoding}' is not supported.")
    decompressor = zlib.decompressobj(wbits=_WBITS[encoding])
    try:
        content = decompressor.decompress(message, limit + 1 if limit >= 0 else 0)
    except zlib.error as error:
        raise ServingError(Code.INTERNAL, f"A message cannot be decompressed: {error}") from None
    if 0 <= limit < len(content):
        raise ServingError(Code.RESOURCE_EXHAUSTED, f"Decompressed message larger than max ({limit} bytes)")
    if not decompressor.eof:
        raise ServingError(Code.INTERNAL, "A message cannot be decompressed: it is cut off.")
    return content


def whole(payload: bytes | memoryview, limit: int) -> bytes | None:
    """The message if `payload` is exactly one, neither compressed nor too long: most often it is."""
    size = len(payload) - PREFIX_BYTES
    if size < 0 or payload[0] or (0 <= limit < size) or _PREFIX.unpack_from(payload)[1] != size:
        return None
    return bytes(payload[PREFIX_BYTES:])


def too_large(answer: bytes, limit: int) -> ServingError | None:
    """The error that takes the place of an answer above `limit`; negative: none is."""
    if 0 <= limit < len(answer):
        return ServingError(
            Code.RESOURCE_EXHAUSTED, f"Sent message larger than max ({len(answer)} vs. {limit})"
        )
    return None
