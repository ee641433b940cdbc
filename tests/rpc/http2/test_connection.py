"""What a connection says to what a client does: the good, the wrong, and what is meant to harm."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.rpc.http2 import frames
from app.rpc.http2.frames import ErrorCode
from app.rpc.http2.headers import LARGEST_BLOCK, OK_BLOCK, answer_block
from app.rpc.http2.messages import prefixed
from tests.rpc.http2.wire import (
    HELLO,
    REQUEST,
    Client,
    body_of,
    data,
    failure_of,
    headers,
    kinds,
    request,
    resets_of,
)

MEBIBYTE = 1 << 20
END_BOTH = frames.END_HEADERS | frames.END_STREAM
_WORD = struct.Struct(">L")
WIDE = frames.window_update(0, 2**30)


def settings_frame(values: dict[int, int]) -> bytes:
    return frames.settings(values)


def ping(payload: bytes = b"12345678", flags: int = 0) -> bytes:
    return frames.frame(frames.PING, flags, 0, payload)


class Ticks:
    """A clock that stands still unless told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# --- good clients ---


def test_the_greeting_announces_the_limits() -> None:
    limits: dict[str, Any] = {
        "max_streams": 7,
        "stream_window": 1 << 20,
        "connection_window": 2 << 20,
        "max_frame": 1 << 15,
    }
    first, second = Client(hello=b"", **limits).greeting
    assert frames.read_settings(first[3]) == {
        frames.MAX_CONCURRENT_STREAMS: 7,
        frames.INITIAL_WINDOW_SIZE: 1 << 20,
        frames.MAX_FRAME_SIZE: 1 << 15,
        frames.MAX_HEADER_LIST_SIZE: 16384,
    }
    assert second == (frames.WINDOW_UPDATE, 0, 0, (2 << 20) - 65535)


def test_an_answer_is_headers_data_and_trailers() -> None:
    said = Client().send(request(1))
    assert [(kind, flags, number) for kind, flags, number, _ in said] == [
        (frames.HEADERS, frames.END_HEADERS, 1),
        (frames.DATA, 0, 1),
        (frames.HEADERS, END_BOTH, 1),
    ]
    assert said[0][3][":status"] == "200"
    assert said[1][3] == prefixed(b"hello")
    assert said[2][3] == {"grpc-status": "0"}


def test_answers_of_one_turn_go_out_together() -> None:
    client = Client()
    client.connection.receive(b"".join(request(number) for number in range(1, 41, 2)))
    assert len(kinds(client.read(), frames.DATA)) == 20


def test_requests_with_padding_priority_and_continuations() -> None:
    client = Client()
    block = hpack.Encoder().encode(list(REQUEST))
    parts = [block[index : index + 1] for index in range(40)] + [block[40:]]
    fragments = [frames.frame(frames.HEADERS, 0, 1, b"\0\0\0\0\x10"[:0] + parts[0])]
    fragments += [frames.frame(frames.CONTINUATION, 0, 1, part) for part in parts[1:-1]]
    fragments.append(frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, parts[-1]))
    padded = frames.frame(
        frames.DATA, frames.PADDED | frames.END_STREAM, 1, b"\x03" + prefixed(b"a") + bytes(3)
    )
    assert body_of(client.send(*fragments, padded), 1) == prefixed(b"a")
    flags = frames.END_HEADERS | frames.PADDED | frames.WITH_PRIORITY
    block = hpack.Encoder().encode(list(REQUEST))
    opened = frames.frame(frames.HEADERS, flags, 3, b"\x02" + b"\0\0\0\0\x10" + block + bytes(2))
    assert body_of(client.send(opened, data(3, prefixed(b"b"), end=True)), 3) == prefixed(b"b")


def test_trailers_end_a_request() -> None:
    client = Client()
    trailers = headers(1, [("x", "y")], flags=END_BOTH)
    assert body_of(client.send(headers(1), data(1, prefixed(b"a")), trailers), 1) == prefixed(b"a")


def test_frames_of_no_effect_have_none() -> None:
    client = Client()
    nothing = [
        frames.frame(frames.PRIORITY, 0, 9, bytes(5)),
        frames.frame(0xBE, 0xFF, 5, b"x" * 1000),
        frames.frame(frames.GOAWAY, 0, 0, bytes(8)),
        frames.frame(frames.SETTINGS, frames.ACK, 0),
        ping(flags=frames.ACK),
        settings_frame({0xF00: 1}),
    ]
    said = client.send(*nothing, request(1))
    assert body_of(said, 1) == prefixed(b"hello")
    assert kinds(said, frames.GOAWAY) == []


def test_settings_and_pings_are_answered() -> None:
    client = Client()
    assert client.send(settings_frame({})) == [(frames.SETTINGS, frames.ACK, 0, b"")]
    assert client.send(ping()) == [(frames.PING, frames.ACK, 0, b"12345678")]


def test_a_client_with_a_smaller_table_is_told_that_it_is_not_used() -> None:
    client = Client()
    client._decoder.max_allowed_table_size = 100
    with pytest.raises(hpack.InvalidTableSizeError):
        client.send(request(1))
    client = Client()
    client._decoder.max_allowed_table_size = 100
    client.send(settings_frame({frames.HEADER_TABLE_SIZE: 100}))
    assert body_of(client.send(request(1), request(3)), 3) == prefixed(b"hello")


def test_a_client_that_goes_on_sending_after_the_answer_is_stopped() -> None:
    client = Client()
    client.send(headers(1))
    stream = client.connection.streams[1]
    client.connection.outbox.reply(stream, answer_block(), b"early", OK_BLOCK)
    said = client.read()
    assert said[-1][:1] + said[-1][2:] == (frames.RST_STREAM, 1, ErrorCode.NO_ERROR)
    assert client.send(data(1, b"under way"), headers(1, flags=END_BOTH)) == []
    assert body_of(client.send(request(3)), 3) == prefixed(b"hello")


# --- windows ---


def test_large_answers_keep_within_the_windows_and_share_them() -> None:
    client = Client()
    body = bytes(100_000)
    client.send(settings_frame({frames.INITIAL_WINDOW_SIZE: 40_000}))
    said = client.send(headers(1), data(1, body[:50_000]), data(1, body[50_000:], end=True))
    assert len(body_of(said, 1)) == 40_000
    said = client.send(headers(3), data(3, body, end=True))
    assert len(body_of(said, 3)) == 65_535 - 40_000
    assert kinds(client.send(frames.window_update(1, 100_000)), frames.DATA) == []
    assert client.connection.outbox.waiting_bytes == 200_000 - 65_535
    said = client.send(frames.window_update(0, 40_000), frames.window_update(3, 100_000))
    assert min(len(body_of(said, 1)), len(body_of(said, 3))) >= 16_384, "neither starves the other"
    said += client.send(WIDE)
    assert [(number, flags) for kind, flags, number, _ in said if kind == frames.HEADERS] == [
        (1, END_BOTH),
        (3, END_BOTH),
    ] or len(kinds(said, frames.HEADERS)) == 2
    assert client.connection.outbox.waiting_bytes == 0


def test_no_frame_is_larger_than_the_client_takes() -> None:
    client = Client()
    said = client.send(WIDE, settings_frame({frames.INITIAL_WINDOW_SIZE: 1 << 20}))
    said += client.send(headers(1), data(1, bytes(100_000), end=True))
    assert [len(payload) for *_, payload in kinds(said, frames.DATA)] == [16384] * 6 + [100_000 % 16384]
    said = client.send(
        settings_frame({frames.MAX_FRAME_SIZE: 1 << 20}), headers(3), data(3, bytes(100_000), end=True)
    )
    assert [len(payload) for *_, payload in kinds(said, frames.DATA)] == [100_000]


def test_a_change_of_the_initial_window_concerns_open_streams() -> None:
    client = Client()
    client.send(settings_frame({frames.INITIAL_WINDOW_SIZE: 10}))
    said = client.send(headers(1), data(1, b"x" * 50, end=True))
    assert len(body_of(said, 1)) == 10
    assert body_of(client.send(settings_frame({frames.INITIAL_WINDOW_SIZE: 5})), 1) == b""
    assert len(body_of(client.send(frames.window_update(1, 6)), 1)) == 1
    assert len(body_of(client.send(settings_frame({frames.INITIAL_WINDOW_SIZE: 100})), 1)) == 39


def test_windows_open_again_as_data_comes() -> None:
    client = Client(stream_window=MEBIBYTE, connection_window=2 * MEBIBYTE)
    client.send(headers(1))
    said = [client.send(data(1, bytes(MEBIBYTE // 2))) for _ in range(10)]
    opened = kinds(list(itertools.chain(*said)), frames.WINDOW_UPDATE)
    assert sum(increment for _, _, number, increment in opened if number == 1) >= 4 * MEBIBYTE
    assert sum(increment for _, _, number, increment in opened if number == 0) >= 4 * MEBIBYTE


def test_a_client_that_takes_no_answers_may_send_no_more() -> None:
    client = Client(max_output=1000, connection_window=MEBIBYTE)
    client.send(settings_frame({frames.INITIAL_WINDOW_SIZE: 0}))
    client.send(headers(1), data(1, bytes(2000), end=True))
    client.send(headers(3))
    said = client.send(data(3, bytes(700_000)))
    assert [update for update in kinds(said, frames.WINDOW_UPDATE) if update[2] == 0] == []
    said = client.send(frames.window_update(1, 5000))
    assert (frames.WINDOW_UPDATE, 0, 0, 702_000) in said


def test_more_than_the_windows_is_refused() -> None:
    client = Client(stream_window=1000, connection_window=70_000)
    said = client.send(headers(1), data(1, bytes(1001)))
    assert resets_of(said) == [(1, "FLOW_CONTROL_ERROR")]
    client = Client(max_output=-1, connection_window=70_000)
    assert failure_of(client.send(headers(1), data(1, bytes(70_001)))) == "FLOW_CONTROL_ERROR"


# --- streams that end before their time ---


def test_a_reset_is_told_once_and_the_stream_is_forgotten() -> None:
    client = Client()
    said = client.send(
        headers(1), frames.rst_stream(1, ErrorCode.CANCEL), frames.rst_stream(1, ErrorCode.CANCEL)
    )
    assert said == []
    assert client.calls.events == [("begin", 1), ("gone", 1)]
    assert client.connection.streams == {}


def test_a_reset_drops_what_waits() -> None:
    client = Client()
    client.send(headers(1), data(1, bytes(100_000), end=True))
    assert client.connection.outbox.waiting_bytes
    client.send(frames.rst_stream(1, ErrorCode.CANCEL))
    assert client.connection.outbox.waiting_bytes == 0
    assert kinds(client.send(WIDE), frames.DATA) == []


def test_more_streams_than_announced_are_refused() -> None:
    client = Client(max_streams=2)
    client.calls.answering = False
    said = client.send(request(1), request(3), request(5))
    assert resets_of(said) == [(5, "REFUSED_STREAM")]
    assert ("begin", 5) not in client.calls.events


def test_draining_takes_calls_that_are_under_way_and_then_no_more() -> None:
    client = Client()
    client.calls.answering = False
    client.send(request(1))
    client.connection.drain()
    first, asked = client.read()
    assert (first[2], first[3][0]) == (2**31 - 1, "NO_ERROR")
    client.send(request(3))
    said = client.send(ping(asked[3], frames.ACK))
    assert [(last, code) for _, _, last, (code, _) in kinds(said, frames.GOAWAY)] == [(3, "NO_ERROR")]
    assert client.send(request(5)) == []
    assert not client.connection.over
    for number in (1, 3):
        client.calls.answer(client.connection.streams[number], b"answer")
    assert client.connection.over
    assert len(kinds(client.read(), frames.DATA)) == 2


# --- wrong clients: what is said, and that it is the last ---

UNKNOWN = frames.frame(frames.WINDOW_UPDATE, 0, 9, bytes(3) + b"\x01")


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (frames.PREFACE, "FRAME_SIZE_ERROR"),
        (headers(2), "PROTOCOL_ERROR"),
        (headers(0), "PROTOCOL_ERROR"),
        (headers(3) + headers(1), "STREAM_CLOSED"),
        (request(1) + headers(1), "STREAM_CLOSED"),
        (data(0, b"a"), "PROTOCOL_ERROR"),
        (data(1, b"a"), "PROTOCOL_ERROR"),
        (data(2, b"a"), "PROTOCOL_ERROR"),
        (headers(1) + frames.frame(frames.DATA, frames.PADDED, 1, b"\x05a"), "PROTOCOL_ERROR"),
        (frames.frame(frames.HEADERS, END_BOTH | frames.PADDED, 1, b"\x05a"), "PROTOCOL_ERROR"),
        (frames.frame(frames.HEADERS, END_BOTH | frames.WITH_PRIORITY, 1, b"abc"), "FRAME_SIZE_ERROR"),
        (frames.frame(frames.HEADERS, END_BOTH, 1, b"\xff\xff\xff"), "COMPRESSION_ERROR"),
        (frames.frame(frames.HEADERS, 0, 1, b"\x88") + ping(), "PROTOCOL_ERROR"),
        (frames.frame(frames.HEADERS, 0, 1, b"\x88") + headers(3), "PROTOCOL_ERROR"),
        (
            frames.frame(frames.HEADERS, 0, 1, b"\x88") + frames.frame(frames.CONTINUATION, 4, 3, b"\x88"),
            "PROTOCOL_ERROR",
        ),
        (frames.frame(frames.CONTINUATION, 4, 1, b"\x88"), "PROTOCOL_ERROR"),
        (frames.frame(frames.PUSH_PROMISE, 4, 1, bytes(4)), "PROTOCOL_ERROR"),
        (frames.frame(frames.PRIORITY, 0, 0, bytes(5)), "PROTOCOL_ERROR"),
        (frames.rst_stream(0, ErrorCode.CANCEL), "PROTOCOL_ERROR"),
        (frames.rst_stream(1, ErrorCode.CANCEL), "PROTOCOL_ERROR"),
        (headers(1) + frames.frame(frames.RST_STREAM, 0, 1, bytes(3)), "FRAME_SIZE_ERROR"),
        (frames.frame(frames.SETTINGS, 0, 1), "PROTOCOL_ERROR"),
        (frames.frame(frames.SETTINGS, 0, 0, bytes(5)), "FRAME_SIZE_ERROR"),
        (frames.frame(frames.SETTINGS, frames.ACK, 0, bytes(6)), "FRAME_SIZE_ERROR"),
        (settings_frame({frames.ENABLE_PUSH: 2}), "PROTOCOL_ERROR"),
        (settings_frame({frames.MAX_FRAME_SIZE: 16383}), "PROTOCOL_ERROR"),
        (settings_frame({frames.MAX_FRAME_SIZE: 2**24}), "PROTOCOL_ERROR"),
        (settings_frame({frames.INITIAL_WINDOW_SIZE: 2**31}), "FLOW_CONTROL_ERROR"),
        (
            headers(1)
            + frames.window_update(1, 2**31 - 1 - 65535)
            + settings_frame({frames.INITIAL_WINDOW_SIZE: 65536}),
            "FLOW_CONTROL_ERROR",
        ),
        (frames.frame(frames.PING, 0, 1, bytes(8)), "PROTOCOL_ERROR"),
        (frames.frame(frames.PING, 0, 0, bytes(7)), "FRAME_SIZE_ERROR"),
        (frames.frame(frames.GOAWAY, 0, 1, bytes(8)), "PROTOCOL_ERROR"),
        (frames.frame(frames.GOAWAY, 0, 0, bytes(7)), "FRAME_SIZE_ERROR"),
        (UNKNOWN, "PROTOCOL_ERROR"),
        (frames.frame(frames.WINDOW_UPDATE, 0, 0, bytes(3)), "FRAME_SIZE_ERROR"),
        (frames.window_update(0, 0), "PROTOCOL_ERROR"),
        (frames.window_update(0, 2**31 - 1), "FLOW_CONTROL_ERROR"),
        (frames.head(2**20 + 1, frames.DATA, 0, 1), "FRAME_SIZE_ERROR"),
    ],
)
def test_mistakes_that_end_the_connection(wrong: bytes, code: str) -> None:
    for split in (len(wrong), 1):
        client = Client()
        said = client.send(*(wrong[at : at + split] for at in range(0, len(wrong), split)))
        assert failure_of(said) == code
        assert client.connection.over
        assert client.connection.streams == {}
        assert client.send(request(101)) == [], "nothing is read any more"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (headers(1, REQUEST[1:]), "PROTOCOL_ERROR"),
        (headers(1, (*REQUEST, (":path", "/again"))), "PROTOCOL_ERROR"),
        (headers(1) + headers(1), "PROTOCOL_ERROR"),
        (request(1) + data(1, b"more"), "STREAM_CLOSED"),
        (headers(1) + frames.window_update(1, 0), "PROTOCOL_ERROR"),
        (headers(1) + frames.window_update(1, 2**31 - 1), "FLOW_CONTROL_ERROR"),
        (headers(1) + frames.frame(frames.PRIORITY, 0, 1, bytes(4)), "FRAME_SIZE_ERROR"),
    ],
)
def test_mistakes_that_end_a_stream(wrong: bytes, code: str) -> None:
    client = Client()
    assert resets_of(client.send(wrong)) == [(1, code)]
    assert not client.connection.over
    assert body_of(client.send(request(3)), 3) == prefixed(b"hello")
    assert client.connection.streams == {}


@pytest.mark.parametrize(
    "hello",
    [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/1", frames.PREFACE + ping(), frames.PREFACE + request(1)],
)
def test_what_is_no_greeting(hello: bytes) -> None:
    client = Client(hello=b"")
    assert failure_of(client.send(hello)) == "PROTOCOL_ERROR"
    assert client.connection.over
    client = Client(hello=b"")
    assert failure_of(client.send(*(hello[at : at + 1] for at in range(len(hello))))) == "PROTOCOL_ERROR"


# --- clients that mean harm ---


def bounded(peak_bytes: int, work: Callable[[], Any]) -> None:
    """Fail if `work` takes more memory than this at any time."""
    work()  # what is made once is not counted
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        work()
        assert tracemalloc.get_traced_memory()[1] - before < peak_bytes
    finally:
        tracemalloc.stop()


def send_until_over(client: Client, attack: Iterator[bytes], most: int) -> int:
    """How many parts of the attack the connection bears; fail if it bears `most`."""
    for count, part in enumerate(itertools.islice(attack, most)):
        client.send(part)
        if client.connection.over:
            assert client.connection.fault is not None
            assert client.connection.fault.code is ErrorCode.ENHANCE_YOUR_CALM
            return count
    raise AssertionError(f"{most} parts, and the connection still lives")


def rapid_reset() -> Iterator[bytes]:
    for number in itertools.count(1, 2):
        yield headers(number) + frames.rst_stream(number, ErrorCode.CANCEL)


def refused_streams() -> Iterator[bytes]:
    return (headers(number) for number in itertools.count(1, 2))


def malformed_requests() -> Iterator[bytes]:
    return (headers(number, [("x", "y")]) for number in itertools.count(1, 2))


def closed_stream_data() -> Iterator[bytes]:
    yield headers(1, flags=END_BOTH)
    yield from itertools.repeat(data(1, b"x"))


def empty_data() -> Iterator[bytes]:
    yield headers(1)
    yield from itertools.repeat(data(1, b""))


def continuations(size: int) -> Iterator[bytes]:
    yield frames.frame(frames.HEADERS, 0, 1, b"")
    yield from itertools.repeat(frames.frame(frames.CONTINUATION, 0, 1, bytes(size)))


FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "rapid reset": rapid_reset,
    "streams beyond the limit": refused_streams,
    "malformed requests": malformed_requests,
    "data on a closed stream": closed_stream_data,
    "empty data": empty_data,
    "settings": lambda: itertools.repeat(settings_frame({frames.INITIAL_WINDOW_SIZE: 1})),
    "acknowledged settings": lambda: itertools.repeat(frames.frame(frames.SETTINGS, frames.ACK, 0)),
    "pings": lambda: itertools.repeat(ping()),
    "acknowledged pings": lambda: itertools.repeat(ping(flags=frames.ACK)),
    "priorities": lambda: itertools.repeat(frames.frame(frames.PRIORITY, 0, 1, bytes(5))),
    "goaways": lambda: itertools.repeat(frames.frame(frames.GOAWAY, 0, 0, bytes(8))),
    "unknown frames": lambda: itertools.repeat(frames.frame(99, 0, 0, bytes(100))),
    "continuations": lambda: continuations(0),
    "long continuations": lambda: continuations(16384),
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_end_the_connection_within_bounded_memory(name: str) -> None:
    def attack() -> None:
        client = Client(max_streams=10)
        client.calls.answering = False
        send_until_over(client, FLOODS[name](), 3000)

    bounded(MEBIBYTE, attack)


def test_patience_grows_back() -> None:
    clock = Ticks()
    client = Client(now=clock)
    for _ in range(100):
        for _ in range(300):
            client.send(settings_frame({}))
        clock.now += 10
    assert not client.connection.over


def test_calls_that_end_well_pay_for_resets() -> None:
    client, encoder = Client(), hpack.Encoder()
    for number in range(1, 8000, 4):
        client.send(request(number, encoder=encoder))
        client.send(headers(number + 2, encoder=encoder), frames.rst_stream(number + 2, ErrorCode.CANCEL))
    assert not client.connection.over


def test_pings_are_borne_as_grpc_does() -> None:
    clock = Ticks()
    client = Client(now=clock, ping_seconds=10, keepalive_without_calls=True)
    for _ in range(20):
        clock.now += 10
        client.send(ping())
    clock.now += 10
    for _ in range(20):  # with an answer in between, any number
        client.send(ping(), ping(), request(1 + 2 * len(client.calls.bodies)))
    assert not client.connection.over
    said = client.send(ping(), ping(), ping(), ping())
    assert kinds(said, frames.GOAWAY)[0][3] == ("ENHANCE_YOUR_CALM", "too_many_pings")


def test_a_header_bomb_is_not_unpacked() -> None:
    encoder = hpack.Encoder()
    first = headers(1, [*REQUEST, ("x", "v" * 3900)], encoder)
    bomb = frames.frame(frames.HEADERS, 4, 3, encoder.encode([("x", "v" * 3900)]) * 16000)

    def attack() -> None:
        assert failure_of(Client().send(first, bomb)) == "ENHANCE_YOUR_CALM"

    bounded(MEBIBYTE, attack)


def test_a_header_block_as_large_as_allowed_is_refused_without_being_kept() -> None:
    block = hpack.Encoder().encode([*REQUEST, *((f"x{n}", "v" * 100) for n in range(400))])
    assert len(block) < LARGEST_BLOCK
    said = Client().send(frames.frame(frames.HEADERS, 4, 1, block))
    assert kinds(said, frames.GOAWAY) == [] or failure_of(said) == "ENHANCE_YOUR_CALM"


def test_many_streams_with_a_byte_each_take_little() -> None:
    def attack() -> None:
        client, encoder = Client(max_streams=1000), hpack.Encoder()
        client.calls.answering = False
        for number in range(1, 2001, 2):
            client.send(headers(number, encoder=encoder), data(number, b"x"))
        assert len(client.connection.streams) == 1000

    bounded(2 * MEBIBYTE, attack)


# --- any bytes ---


def scripts() -> st.SearchStrategy[bytes]:
    """What a client might send after its greeting, right and wrong."""
    number = st.integers(0, 9)
    word = st.one_of(st.integers(0, 100), st.integers(2**31 - 70_000, 2**32 - 1)).map(
        struct.Struct(">L").pack
    )
    part = st.one_of(
        st.integers(0, 4).map(lambda index: request(2 * index + 1)),
        st.builds(headers, number, st.just(REQUEST), st.none(), st.sampled_from([0, 1, 4, 5])),
        st.builds(data, number, st.binary(max_size=40), end=st.booleans()),
        st.builds(frames.frame, st.integers(0, 12), st.integers(0, 255), number, st.binary(max_size=20)),
        st.builds(frames.frame, st.sampled_from([3, 8]), st.just(0), number, word),
        st.dictionaries(st.integers(0, 7), st.integers(0, 2**32 - 1), max_size=2).map(frames.settings),
        st.just(ping()),
    )
    return st.lists(part, max_size=12).map(b"".join)


def said_to(chunks: list[bytes]) -> list[Any]:
    client = Client(stream_window=100, connection_window=70_000, max_frame=16384)
    said = client.send(*chunks)
    # When windows open depends on how data arrives; what is answered does not.
    return [frame for frame in said if frame[0] != frames.WINDOW_UPDATE]


@settings(max_examples=300)
@given(scripts(), st.data())
def test_any_split_of_the_bytes_gives_the_same_answers(script: bytes, draw: st.DataObject) -> None:
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(script)), max_size=8)))
    chunks = [script[a:b] for a, b in itertools.pairwise([0, *cuts, len(script)])]
    assert said_to(chunks) == said_to([script])
    assert said_to([script[at : at + 1] for at in range(len(script))]) == said_to([script])


@settings(max_examples=300)
@given(st.data())
def test_damaged_bytes_are_answered_and_nothing_breaks(draw: st.DataObject) -> None:
    script = bytearray(HELLO + request(1) + request(3) + ping() + request(5))
    for _ in range(draw.draw(st.integers(1, 5))):
        at = draw.draw(st.integers(0, len(script) - 1))
        script[at] = draw.draw(st.integers(0, 255))
    client = Client(hello=b"")
    client.send(bytes(script))
    connection = client.connection
    assert connection.over == (connection.fault is not None)
    if connection.over:
        assert connection.streams == {}
        assert connection.outbox.waiting_bytes == 0


@given(st.binary(max_size=400))
def test_noise_after_the_greeting_breaks_nothing(noise: bytes) -> None:
    client = Client()
    client.send(noise)
    assert client.connection.over == (client.connection.fault is not None)
