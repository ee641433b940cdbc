from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import pytest

from app.rest.body import TooLargeError, read_body, unzip


class Stream:
    """A request's stream that counts what was taken of it."""

    def __init__(self, chunk: bytes, count: int) -> None:
        self.chunk, self.count, self.taken = chunk, count, 0

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self.count):
            self.taken += 1
            yield self.chunk


@pytest.mark.parametrize("declared", [None, 30])
@pytest.mark.parametrize("limit", [0, 30, 31])
def test_a_body_within_the_limit_is_read(declared: int | None, limit: int) -> None:
    assert asyncio.run(read_body(Stream(b"123", 10), declared, limit)) == b"123" * 10


def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    stream = Stream(b"123", 10)
    with pytest.raises(TooLargeError, match="has 30 bytes or more; at most 29 are taken") as caught:
        asyncio.run(read_body(stream, 30, 29))
    assert caught.value.reason == "body_size"
    assert stream.taken == 0


def test_a_body_without_a_length_is_read_up_to_the_limit() -> None:
    stream = Stream(b"123", 10**9)
    with pytest.raises(TooLargeError):
        asyncio.run(read_body(stream, None, 29))
    assert stream.taken == 10


def test_a_ratio_within_the_limit() -> None:
    assert unzip(gzip.compress(bytes(1000)), 1000) == bytes(1000)


def test_a_ratio_beyond_the_limit_is_told() -> None:
    with pytest.raises(TooLargeError, match="more than 10 times its size") as caught:
        unzip(gzip.compress(bytes(1000)), 10)
    assert caught.value.reason == "gzip_ratio"


def test_what_is_beyond_100_mib_is_empty_as_in_the_reference() -> None:
    assert unzip(gzip.compress(bytes((100 << 20) + 1))) == b""
    assert len(unzip(gzip.compress(bytes(100 << 20)))) == 100 << 20
