from __future__ import annotations

import gzip
import itertools
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Code, ServingError
from app.rpc.http2.messages import Message, MessageReader, decompressed, prefixed, too_large, whole


@given(st.lists(st.binary(max_size=200), max_size=5), st.lists(st.integers(0, 1000), max_size=10))
def test_any_split_gives_the_same_messages(messages: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(map(prefixed, messages))
    edges = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    reader, found = MessageReader(-1), list[Message]()
    for start, end in itertools.pairwise(edges):
        found += reader.feed(memoryview(wire)[start:end])
    assert found == [(message, False) for message in messages]
    assert not reader.within


def test_one_byte_at_a_time_costs_no_more_than_twice_the_message() -> None:
    message = bytes(range(256)) * 400
    reader, wire = MessageReader(-1), prefixed(message)
    for index in range(len(wire) - 1):
        assert not list(reader.feed(memoryview(wire)[index : index + 1]))
        assert len(reader._parts) <= 128 + index // 128
    assert reader.within
    assert list(reader.feed(wire[-1:])) == [(message, False)]


def test_a_message_is_refused_by_its_length_alone() -> None:
    assert list(MessageReader(10).feed(prefixed(bytes(10)))) == [(bytes(10), False)]
    with pytest.raises(ServingError) as raised:
        list(MessageReader(10).feed(prefixed(bytes(11))[:5]))
    assert str(raised.value) == "RESOURCE_EXHAUSTED: SERVER: Received message larger than max (11 vs. 10)"


def test_a_flag_that_does_not_exist() -> None:
    with pytest.raises(ServingError) as raised:
        list(MessageReader(10).feed(b"\x02\0\0\0\0"))
    assert raised.value.code is Code.INTERNAL


@given(st.binary(max_size=30))
def test_the_short_way_agrees_with_the_long_one(payload: bytes) -> None:
    message = whole(payload, 10)
    if message is not None:
        assert list(MessageReader(10).feed(payload)) == [(message, False)]
    for sent in (payload[:10], bytes(10)):
        assert whole(prefixed(sent), 10) == whole(memoryview(prefixed(sent)), 10) == sent
    assert whole(prefixed(bytes(11)), 10) is None


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("content", [b"", b"abc", bytes(100_000)])
def test_compressed_messages(encoding: str, content: bytes) -> None:
    ((message, compressed),) = MessageReader(-1).feed(prefixed(content, encoding))
    assert compressed
    assert decompressed(message, encoding, -1) == content
    assert decompressed(message, encoding, len(content)) == content
    assert (gzip.decompress(message) if encoding == "gzip" else zlib.decompress(message)) == content


def test_what_grows_above_the_limit_is_refused() -> None:
    bomb = gzip.compress(bytes(1 << 24))
    with pytest.raises(ServingError) as raised:
        decompressed(bomb, "gzip", 1000)
    assert raised.value.code is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("message", "encoding", "code"),
    [
        (b"abc", "identity", Code.INTERNAL),
        (b"abc", "snappy", Code.UNIMPLEMENTED),
        (b"abc", "gzip", Code.INTERNAL),
        (gzip.compress(b"abc", mtime=0)[:-9], "gzip", Code.INTERNAL),
    ],
)
def test_what_cannot_be_decompressed(message: bytes, encoding: str, code: Code) -> None:
    with pytest.raises(ServingError) as raised:
        decompressed(message, encoding, 100)
    assert raised.value.code is code


def test_answers_have_a_limit_too() -> None:
    assert too_large(bytes(10), 10) is None
    assert too_large(bytes(10), -1) is None
    assert str(too_large(bytes(11), 10)) == "RESOURCE_EXHAUSTED: Sent message larger than max (11 vs. 10)"
