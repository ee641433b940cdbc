"""A few bytes in memory that processes share: one of them writes, the others read whole contents only."""

from __future__ import annotations

import mmap
import struct
import zlib

# Number of the content, its length, and a checksum of all three.
_HEAD = struct.Struct("<QII")


class Region:
    """The last content that was written, whatever becomes of its writer.

    There are two copies. A write goes over the older one, so that the other stays whole while it lasts, and
    for good if the writer dies on the way.
    """

    def __init__(self, size: int) -> None:
        """Make it before the fork; memory is taken only as contents need it.

        Args:
            size: of the largest content, in bytes.
        """
        self._size = size
        self._stride = _HEAD.size + size
        self._memory = mmap.mmap(-1, 2 * self._stride)

    def read(self) -> bytes:
        """The last content; empty before the first."""
        while True:
            # Two copies can be bad only while a writer has been round twice since we began.
            found = [self._copy(index) for index in (0, 1)]
            if contents := [copy for copy in found if copy is not None]:
                return max(contents, key=lambda copy: copy[0])[1]

    def write(self, content: bytes) -> bool:
        """Replace the content; False, and nothing changes, if it is too large. For one writer at a time."""
        if len(content) > self._size:
            return False
        numbers = [-1 if (copy := self._copy(index)) is None else copy[0] for index in (0, 1)]
        index, number = numbers.index(min(numbers)), max(numbers) + 1
        begin = index * self._stride
        self._memory[begin : begin + _HEAD.size] = _HEAD.pack(0, 0, 1)  # no content has this checksum
        self._memory[begin + _HEAD.size : begin + _HEAD.size + len(content)] = content
        self._memory[begin : begin + _HEAD.size] = _HEAD.pack(number, len(content), _sum(number, content))
        return True

    def _copy(self, index: int) -> tuple[int, bytes] | None:
        """Number and content of a copy; None if it is being written."""
        begin = index * self._stride
        number, length, checksum = _HEAD.unpack_from(self._memory, begin)
        content = self._memory[begin + _HEAD.size : begin + _HEAD.size + min(length, self._size)]
        return (number, content) if checksum == _sum(number, content) else None


def _sum(number: int, content: bytes) -> int:
    return zlib.crc32(content, number & 0xFFFFFFFF) ^ len(content)
