"""The short way and the long way give the same answers to whatever comes."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.errors import Code, ServingError
from app.rpc.http2 import frames
from app.rpc.http2.headers import OK_BLOCK, RequestHead, answer_block, status_block
from app.rpc.http2.messages import prefixed
from app.rpc.http2.streams import Stream
from tests.rpc.http2.wire import REQUEST, Client, Echo, body_of, data, headers, kinds

FAILS = b"fail"
HELD = b"held"


class Long(Echo):
    """Answers each request with its message, `FAILS` with an error; only by way of streams."""

    def end(self, stream: Stream) -> None:
        self.events.append(("end", stream.id))
        message = bytes(self.bodies[stream.id][5:])
        self.answer(stream, ServingError(Code.NOT_FOUND, "it fails") if message == FAILS else message)

    def answer(self, stream: Stream, answer: bytes | ServingError) -> None:
        if isinstance(answer, ServingError):
            self.connection.outbox.finish(stream, status_block(answer.code, answer.message, alone=True))
        else:
            self.connection.outbox.reply(stream, answer_block(), prefixed(answer), OK_BLOCK)


class Short(Long):
    """The same at once, but for `HELD`."""

    taken = 0

    def at_once(self, head: RequestHead, message: bytes) -> bytes | ServingError | None:
        del head
        if message == HELD:
            return None
        self.taken += 1
        return ServingError(Code.NOT_FOUND, "it fails") if message == FAILS else message


def pair(**limits: Any) -> tuple[Client, Client]:
    return Client(echo=Short, **limits), Client(echo=Long, **limits)


def literal() -> bytes:
    """A block that leaves the table as it is, so that it is remembered."""
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in REQUEST
    )


def request(number: int, message: bytes, *, flags: int = frames.END_HEADERS) -> bytes:
    opening = frames.frame(frames.HEADERS, flags, number, literal())
    return opening + data(number, prefixed(message), end=True)


def as_the_c_core_sends_it(number: int, message: bytes, more: int = 5, all_more: int = 52) -> bytes:
    opening = frames.frame(frames.HEADERS, frames.END_HEADERS, number, literal())
    body = data(number, prefixed(message), end=True)
    return opening + frames.window_update(number, more) + body + frames.window_update(0, all_more)


def test_requests_like_earlier_ones_need_no_stream() -> None:
    client = Client(echo=Short)
    first = client.send(request(1, b"a"))
    assert (client.calls.taken, client.calls.events) == (0, [("begin", 1), ("end", 1)]), "not seen before"
    said = client.send(request(3, b"b") + request(5, b"cc"))
    assert client.calls.taken == 2
    assert len(client.calls.events) == 2
    assert [body_of(said, number) for number in (3, 5)] == [prefixed(b"b"), prefixed(b"cc")]
    assert [frame[3] for frame in kinds(said, frames.HEADERS)] == 2 * [
        frame[3] for frame in kinds(first, frames.HEADERS)
    ]
    assert client.connection.streams == {}


def test_requests_of_grpcs_c_core_need_no_stream_either() -> None:
    client = Client(echo=Short)
    client.send(as_the_c_core_sends_it(1, b"a"))
    window = client.connection.outbox.window
    said = client.send(as_the_c_core_sends_it(3, b"b") + as_the_c_core_sends_it(5, b"cc"))
    assert (client.calls.taken, len(client.calls.events)) == (2, 2)
    assert [body_of(said, number) for number in (3, 5)] == [prefixed(b"b"), prefixed(b"cc")]
    assert client.connection.outbox.window == window + 2 * 52 - len(prefixed(b"b") + prefixed(b"cc"))
    assert client.connection._parser.buffered == 0


def test_a_stream_that_the_client_widened_takes_more_of_an_answer() -> None:
    for client in pair():
        client.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 3}), request(1, b"a"))
        said = client.send(as_the_c_core_sends_it(3, b"bbbbbbbbbb"))
        assert body_of(said, 3) == prefixed(b"bbbbbbbbbb")[:8]


MESSAGES = st.sampled_from([b"", b"a", FAILS, HELD, b"x" * 100, b"y" * 20_000])
NUMBERS = st.sampled_from([0, 1, 2, 3, 5, 7, 9, 11, 2**31 - 1])


def piece(number: int, message: bytes) -> st.SearchStrategy[bytes]:
    whole = request(number, message)
    return st.sampled_from(
        [
            whole,
            whole,
            whole,
            headers(number) + data(number, prefixed(message), end=True),  # changes the table
            frames.frame(frames.HEADERS, frames.END_HEADERS, number, literal()) + data(number + 2, b"x"),
            frames.frame(frames.HEADERS, frames.END_HEADERS, number, literal()),
            frames.frame(frames.HEADERS, 0, number, literal()[:10]),
            frames.frame(frames.HEADERS, frames.END_HEADERS, number, b"\0\1A\1b"),  # no request
            request(number, message, flags=frames.END_HEADERS | frames.END_STREAM),
            data(number, prefixed(message), end=True),
            data(number, prefixed(message)),
            data(number, b"\1" + prefixed(message)[1:], end=True),
            data(number, prefixed(message)[:-1], end=True),
            frames.rst_stream(number, frames.ErrorCode.CANCEL),
            as_the_c_core_sends_it(number, message),
            as_the_c_core_sends_it(number, message),
            as_the_c_core_sends_it(number, message, more=70_000),
            as_the_c_core_sends_it(number, message, more=0),
            as_the_c_core_sends_it(number, message, all_more=0),
            as_the_c_core_sends_it(number, message, more=2**31 - 1, all_more=1),
            as_the_c_core_sends_it(number, message, all_more=2**31 - 1),
            as_the_c_core_sends_it(number, message)[:-4],
            frames.window_update(0, 70_000),
            frames.window_update(number, 5),
            frames.frame(frames.WINDOW_UPDATE, 0, 0, b"\0\0\0"),
            frames.settings({frames.INITIAL_WINDOW_SIZE: len(message)}),
            frames.settings({frames.HEADER_TABLE_SIZE: 0}),
            frames.frame(frames.PING, 0, 0, bytes(8)),
        ]
    )


def steps(last: int = 40) -> st.SearchStrategy[list[bytes]]:
    """Mostly requests with rising numbers, and things between."""
    odd = st.integers(0, last).map(lambda place: 2 * place + 1)
    anything = st.tuples(st.one_of(NUMBERS, odd), MESSAGES).flatmap(lambda what: piece(*what))
    rising = st.lists(st.tuples(MESSAGES, st.booleans(), anything), max_size=12)

    def ordered(parts: list[tuple[bytes, bool, bytes]]) -> list[bytes]:
        made = []
        for place, (message, plain, other) in enumerate(parts):
            usual = as_the_c_core_sends_it if place % 2 else request
            made.append(usual(2 * place + 3, message) if plain else other)
        return made

    return rising.map(ordered)


@given(steps(), st.integers(1, 4), st.lists(st.integers(0, 60_000), max_size=4))
def test_both_ways_say_the_same(parts: list[bytes], most: int, cuts: list[int]) -> None:
    short, long = pair(max_streams=most)
    sent = request(1, b"a") + b"".join(parts)
    edges = [0, *sorted(cuts), len(sent)]
    for start, end in itertools.pairwise(edges):
        assert short.send(sent[start:end]) == long.send(sent[start:end])
    for client in (short, long):
        client.send(frames.window_update(0, 1 << 20))
    assert short.connection.over == long.connection.over
    assert short.connection.streams.keys() == long.connection.streams.keys()
    assert short.connection._intake.taken == long.connection._intake.taken
    assert short.connection.outbox.window == long.connection.outbox.window


def test_an_answer_that_the_client_does_not_take_yet_waits() -> None:
    for client in pair():
        client.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 3}), request(1, b"a"))
        said = client.send(frames.window_update(1, 100), request(3, b"bb") + request(5, b"cc"))
        assert [body_of(said, number) for number in (1, 3, 5)] == [
            prefixed(b"a")[3:],
            prefixed(b"bb")[:3],
            prefixed(b"cc")[:3],
        ]
        said = client.send(frames.window_update(3, 100), frames.window_update(5, 100))
        assert [len(body_of(said, number)) for number in (3, 5)] == [4, 4]


def test_a_client_may_ping_while_it_receives_a_large_answer() -> None:
    for client in pair(ping_seconds=10, ping_strikes=2):
        client.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 3}), request(1, b"x" * 100))
        pings = [frames.frame(frames.PING, 0, 0, bytes(8))] * 2
        for _ in range(20):
            said = client.send(frames.window_update(1, 2), *pings)
            assert len(body_of(said, 1)) == 2
        assert not client.connection.over
        client.send(*pings, *pings)
        assert client.connection.over


def test_nothing_is_taken_once_the_client_was_told_to_go() -> None:
    client = Client(echo=Short)
    client.send(request(1, b"a"), request(3, b"a"))
    client.connection.leave()
    client.read()
    assert client.send(request(5, b"a")) == []
    assert client.calls.taken == 1
