from __future__ import annotations

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Code
from app.rpc.http2.frames import ErrorCode, Http2ConnectionError
from app.rpc.http2.headers import (
    LARGEST_BLOCK,
    HeaderReader,
    answer_block,
    encode,
    encoding_for,
    http_block,
    read_head,
    status_block,
)
from tests.rpc.http2.wire import REQUEST


def raw(fields: tuple[tuple[str, str], ...]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in fields]


def test_a_request_of_a_grpc_client() -> None:
    head = read_head(
        raw(
            (
                *REQUEST,
                ("grpc-timeout", "1500m"),
                ("grpc-encoding", "gzip"),
                ("grpc-accept-encoding", "a, gzip"),
            )
        )
    )
    assert (head.path, head.timeout, head.encoding) == ("/test.Service/Echo", 1.5, "gzip")
    assert (head.http_status, head.well_formed) == (200, True)
    assert encoding_for(head, "gzip") == "gzip"
    assert encoding_for(head, "deflate") == "identity"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1H", 3600),
        ("2M", 120),
        ("3S", 3),
        ("4m", 0.004),
        ("5u", 5e-6),
        ("6n", 6e-9),
        ("99999999S", 99999999),
    ],
)
def test_timeouts(text: str, seconds: float) -> None:
    assert read_head(raw((*REQUEST, ("grpc-timeout", text)))).timeout == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "S", "1", "1s", "-1S", "123456789S", "1.5S"])
def test_a_timeout_that_is_none_is_passed_over(text: str) -> None:
    assert read_head(raw((*REQUEST, ("grpc-timeout", text)))).timeout is None


@pytest.mark.parametrize(
    "fields",
    [
        REQUEST[1:],
        (REQUEST[0], *REQUEST[2:]),
        (*REQUEST[:2], *REQUEST[3:]),
        (*REQUEST, (":authority", "late")),
        (*REQUEST[:3], REQUEST[0], *REQUEST[3:]),
        ((":status", "200"), *REQUEST),
        (*REQUEST, ("Upper", "x")),
        (*REQUEST, ("with space", "x")),
        (*REQUEST, ("", "x")),
        (*REQUEST, ("x", "a\nb")),
        (*REQUEST, ("x", "a\0b")),
        (*REQUEST, ("connection", "close")),
        (*REQUEST, ("te", "gzip")),
    ],
)
def test_what_is_no_request(fields: tuple[tuple[str, str], ...]) -> None:
    assert not read_head(raw(fields)).well_formed


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        (":method", "GET", 405),
        ("content-type", "text/plain", 415),
        ("content-type", "application/grpc-web", 415),
        ("content-type", "application/grpc+proto", 200),
        ("content-type", "application/grpc;x=y", 200),
    ],
)
def test_http_that_is_not_grpc(name: str, value: str, status: int) -> None:
    fields = tuple((name, value) if name == old else (old, kept) for old, kept in REQUEST)
    assert read_head(raw(fields)).http_status == status


# --- blocks in ---


def test_a_block_is_decoded_once_while_the_table_stays_as_it_is() -> None:
    encoder, reader = hpack.Encoder(), HeaderReader()
    first = reader.read(encoder.encode(REQUEST))
    again = encoder.encode(REQUEST)
    second = reader.read(again)
    assert (first, reader.read(again)) == (second, second)
    assert reader.read(again) is second
    assert reader.read(encoder.encode((*REQUEST, ("new", "1")))) is not second
    assert reader.read(encoder.encode(REQUEST)) == second


FIELD = st.tuples(st.sampled_from(["a", "b", "x-long-" + "n" * 700]), st.sampled_from(["1", "2", "v" * 900]))


@given(st.lists(st.lists(FIELD, max_size=4), max_size=12), st.lists(st.integers(0, 4096), max_size=3))
def test_memory_never_changes_what_a_block_means(
    blocks: list[list[tuple[str, str]]], sizes: list[int]
) -> None:
    """Against a decoder without one; entries fall out of the table, and its size changes."""
    encoder, plain, reader = hpack.Encoder(), hpack.Decoder(), HeaderReader()
    resize = dict(zip(range(0, 3 * len(sizes), 3), sizes, strict=True))
    for index, fields in enumerate(blocks):
        if index in resize:
            encoder.header_table_size = resize[index]
        block = encoder.encode((*REQUEST, *fields))
        expected = read_head([(bytes(n), bytes(v)) for n, v in plain.decode(block, raw=True)])
        assert reader.read(block) == expected


@pytest.mark.parametrize(
    ("block", "code"),
    [
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", ErrorCode.COMPRESSION_ERROR),
        (b"\xc8", ErrorCode.COMPRESSION_ERROR),
        (b"\x00\x05ab", ErrorCode.COMPRESSION_ERROR),
        (b"\x00", ErrorCode.COMPRESSION_ERROR),
        (b"\x00\x81\xff\x01a", ErrorCode.COMPRESSION_ERROR),
        (b"\x3f\xe1\xff\x7f", ErrorCode.COMPRESSION_ERROR),
        (b"\x20" * 3, ErrorCode.COMPRESSION_ERROR),
        (b"\x3f\x00\x20\x3f\x80\x00", ErrorCode.COMPRESSION_ERROR),
    ],
)
def test_what_is_no_block(block: bytes, code: ErrorCode) -> None:
    with pytest.raises(Http2ConnectionError) as raised:
        HeaderReader().read(block)
    assert raised.value.code is code


def test_a_small_block_that_grows_is_refused() -> None:
    reader, encoder = HeaderReader(), hpack.Encoder()
    reader.read(encoder.encode([("x", "v" * 4000)]))
    bomb = encoder.encode([("x", "v" * 4000)]) * 200
    assert len(bomb) < 1000
    with pytest.raises(Http2ConnectionError) as raised:
        reader.read(bomb)
    assert raised.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_the_memory_for_blocks_is_bounded() -> None:
    reader = HeaderReader()
    for number in range(1000):
        reader.read(encode((*REQUEST, ("x", str(number)))))
        reader.read(encode((*REQUEST, ("x", str(number) + "y" * 2000))))
    assert len(reader.known) <= 64
    assert max(map(len, reader.known)) <= 1024


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_an_error(block: bytes) -> None:
    try:
        head = HeaderReader().read(block)
    except Http2ConnectionError:
        return
    assert head.size <= LARGEST_BLOCK


# --- blocks out ---


def decoded(block: bytes) -> dict[str, str]:
    decoder = hpack.Decoder()
    fields = {str(name): str(value) for name, value in decoder.decode(block)}
    assert not decoder.header_table.dynamic_entries, "the client's table is left alone"
    return fields


def test_the_blocks_of_an_answer() -> None:
    accepted = {"grpc-accept-encoding": "identity,deflate,gzip"}
    ok = {":status": "200", "content-type": "application/grpc"}
    assert decoded(answer_block()) == ok | accepted
    assert decoded(answer_block("gzip")) == ok | accepted | {"grpc-encoding": "gzip"}
    assert decoded(status_block(Code.OK, "")) == {"grpc-status": "0"}
    assert decoded(http_block(415)) == {":status": "415"}
    assert decoded(status_block(Code.NOT_FOUND, "why", alone=True)) == ok | {
        "grpc-status": "5",
        "grpc-message": "why",
    }


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ("a b~ !", "a b~ !"),
        ("100%", "100%25"),
        ("\u00fc\n\t", "%C3%BC%0A%09"),
        ("\ud800", "?"),
        ("x" * 1038, "x" * 1038),
    ],
)
def test_messages_are_percent_encoded(message: str, sent: str) -> None:
    assert decoded(status_block(Code.INTERNAL, message))["grpc-message"] == sent
