"""The body of a REST request, as far as its limits allow: received, unzipped."""

from __future__ import annotations

import zlib
from typing import Any

# TensorFlow Serving's limit of an unzipped body. Reading stops there, whatever the sender claims.
_LARGEST_UNZIPPED = 100 * 1024 * 1024


class TooLargeError(Exception):
    """A body beyond a limit, for status 413.

    Attributes:
        reason: the limit's name, for metrics.
        text: what the client is told.
    """

    def __init__(self, reason: str, text: str) -> None:
        """Keep both."""
        super().__init__(text)
        self.reason = reason
        self.text = text


async def read_body(stream: Any, declared: int | None, limit: int) -> bytes:
    """The whole body. No more than a chunk above the limit is ever held.

    Args:
        stream: of the request.
        declared: its Content-Length; None without one.
        limit: bytes; 0 for none.

    Raises:
        TooLargeError: it is, or says that it is.
    """
    if not limit or (declared is not None and declared <= limit):
        body: bytes = await stream.read()
        return body
    if declared is not None:
        raise _too_large(declared, limit)
    content = bytearray()
    async for chunk in stream:
        content += chunk
        if len(content) > limit:
            raise _too_large(len(content), limit)
    return bytes(content)


def _too_large(size: int, limit: int) -> TooLargeError:
    text = f"The body has {size} bytes or more; at most {limit} are taken (--rest_api_max_body_mb)."
    return TooLargeError("body_size", text)


def unzip(body: bytes, max_ratio: int = 0) -> bytes:
    """The content of a gzip body; empty for anything wrong with it, as TensorFlow Serving does.

    Args:
        body: as received.
        max_ratio: bytes that one of `body` may become; 0 for any number. 100 MiB are the most in any case.

    Raises:
        TooLargeError: the ratio is exceeded.
    """
    allowed = min(_LARGEST_UNZIPPED, len(body) * max_ratio) if max_ratio else _LARGEST_UNZIPPED
    decompressor = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        # One byte more tells what is too large from what just fits.
        content = decompressor.decompress(body, allowed + 1)
    except zlib.error:
        return b""
    if allowed < len(content) <= _LARGEST_UNZIPPED:
        text = f"The gzip body grows to more than {max_ratio} times its size (--rest_api_max_gzip_ratio)."
        raise TooLargeError("gzip_ratio", text)
    return content if decompressor.eof and len(content) <= _LARGEST_UNZIPPED else b""
