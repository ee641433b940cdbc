from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.rpc.http2 import frames
from app.rpc.http2.frames import ErrorCode, FrameParser, Http2ConnectionError

FRAME = st.tuples(
    st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary(max_size=300)
)


Parsed = list[tuple[int, int, int, bytes]]


def parsed(chunks: list[bytes], max_frame: int = 16384, max_buffered: int = 16384) -> Parsed:
    """The frames in `chunks`, with the pieces of each DATA frame put together again."""
    parser = FrameParser(max_frame, max_buffered)
    found: Parsed = []
    for chunk in chunks:
        for kind, flags, stream, payload in parser.feed(chunk):
            found.append((kind, flags, stream, bytes(payload)))
        assert parser.buffered <= max_buffered + 9
    return found


def joined(found: Parsed) -> list[tuple[int, int, bytes]]:
    """Adjacent pieces of one stream as one."""
    whole: list[tuple[int, int, bytes]] = []
    for kind, _, stream, payload in found:
        if whole and kind == frames.DATA == whole[-1][0] and whole[-1][1] == stream:
            whole[-1] = (kind, stream, whole[-1][2] + payload)
        else:
            whole.append((kind, stream, payload))
    return whole


@given(st.lists(FRAME, max_size=8), st.data())
def test_any_split_gives_the_same_frames(sent: Parsed, draw: st.DataObject) -> None:
    wire = b"".join(frames.frame(*frame) for frame in sent)
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    chunks = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert joined(parsed(chunks)) == joined(parsed([wire]))
    assert joined(parsed([wire[i : i + 1] for i in range(len(wire))])) == joined(parsed([wire]))


@given(st.lists(FRAME, max_size=8))
def test_what_is_written_is_read(sent: Parsed) -> None:
    wire = b"".join(frames.frame(*frame) for frame in sent)
    expected = []
    for kind, flags, stream, payload in sent:
        known = kind <= frames.CONTINUATION
        flags_read = flags & frames.END_STREAM if kind == frames.DATA and payload and not flags & 8 else flags
        expected.append((kind, flags_read, stream, payload if known else b""))
    assert parsed([wire]) == expected


def test_only_the_last_piece_of_data_ends_the_stream() -> None:
    wire = frames.frame(frames.DATA, frames.END_STREAM, 1, b"abcdef")
    pieces = parsed([wire[:11], wire[11:13], wire[13:]])
    assert pieces == [(0, 0, 1, b"ab"), (0, 0, 1, b"cd"), (0, 1, 1, b"ef")]


def test_a_large_piece_is_a_view_and_a_small_one_does_not_keep_what_it_came_with() -> None:
    parser = FrameParser(1 << 20, 1 << 16)
    large = frames.frame(frames.DATA, 0, 1, bytes(100_000))
    ((_, _, _, payload),) = parser.feed(large)
    assert isinstance(payload, memoryview)
    found = list(parser.feed(frames.frame(frames.DATA, 0, 1, bytes(5000)) + large))
    assert isinstance(found[0][3], bytes)


@pytest.mark.parametrize(
    ("kind", "size", "code"),
    [
        (frames.DATA, 1001, ErrorCode.FRAME_SIZE_ERROR),
        (frames.HEADERS, 1001, ErrorCode.FRAME_SIZE_ERROR),
        (77, 1001, ErrorCode.FRAME_SIZE_ERROR),
        (frames.HEADERS, 501, ErrorCode.ENHANCE_YOUR_CALM),
        (frames.GOAWAY, 501, ErrorCode.ENHANCE_YOUR_CALM),
    ],
)
def test_too_large_a_frame_is_refused_by_its_head(kind: int, size: int, code: ErrorCode) -> None:
    before = frames.frame(frames.PING, 0, 0, bytes(8))
    parser = FrameParser(1000, 500)
    feed = parser.feed(before + frames.head(size, kind, 0, 1))
    assert next(feed)[0] == frames.PING, "what came before counts"
    with pytest.raises(Http2ConnectionError) as raised:
        next(feed)
    assert raised.value.code is code


def test_kinds_that_do_not_exist_are_not_kept() -> None:
    parser = FrameParser(1 << 20, 100)
    assert list(parser.feed(frames.head(1 << 20, 99, 0, 0))) == [(99, 0, 0, b"")]
    for _ in range(1 << 10):
        assert list(parser.feed(bytes(1 << 10))) == []
        assert parser.buffered == 0
    assert next(iter(parser.feed(frames.frame(frames.PING, 0, 0, bytes(8)))))[0] == frames.PING


@pytest.mark.parametrize(
    ("payload", "content"),
    [(b"\x00abc", b"abc"), (b"\x02abc\0\0", b"abc"), (b"\x00", b""), (b"\x03\0\0\0", b"")],
)
def test_padding_is_taken_off(payload: bytes, content: bytes) -> None:
    assert frames.unpadded(frames.PADDED, payload) == content
    assert frames.unpadded(0, payload) == payload


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x04abc"])
def test_more_padding_than_payload_is_refused(payload: bytes) -> None:
    with pytest.raises(Http2ConnectionError) as raised:
        frames.unpadded(frames.PADDED, payload)
    assert raised.value.code is ErrorCode.PROTOCOL_ERROR
