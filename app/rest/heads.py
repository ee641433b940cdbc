"""Heads of plain requests that were parsed before: the same bytes mean the same.

A client that keeps its connection sends one head again and again, as long as its bodies have one size. To
parse it, Python is called with every header.
"""

from __future__ import annotations

LONGEST_REQUEST = 16 * 1024
"""In bytes; to parse a head costs little beside what is longer."""

_LONGEST_HEAD = 1024  # below every limit of headers that can be set
_KEPT = 512
_END = b"\r\n\r\n"


class Heads:
    """By their bytes, the target and the size of the body. Not for several threads."""

    def __init__(self) -> None:
        """Know none."""
        self._known: dict[bytes, tuple[str, int]] = {}

    def learn(self, data: bytes, target: str, size: int) -> None:
        """Keep the head of `data`, if that is one whole request and nothing else.

        Args:
            data: what was read; a request began with it.
            target: of the first request in it, which was a plain one.
            size: of that request's body.
        """
        head, _, body = data.partition(_END)
        if len(body) != size or len(head) > _LONGEST_HEAD:
            return
        if len(self._known) >= _KEPT:
            del self._known[next(iter(self._known))]
        self._known[head] = target, size

    def find(self, data: bytes) -> tuple[str, bytes] | None:
        """The target and the body, if `data` is one whole request with a head that is known."""
        head, _, body = data.partition(_END)
        known = self._known.get(head)
        return (known[0], body) if known is not None and known[1] == len(body) else None
