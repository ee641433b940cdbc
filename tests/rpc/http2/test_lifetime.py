"""How streams and a connection end."""

from __future__ import annotations

from app.rpc.http2.frames import ErrorCode
from tests.rpc.http2.wire import Client, failure_of, request, resets_of


def waiting() -> Client:
    """A client with two calls that have no answer yet."""
    client = Client()
    client.calls.answering = False
    client.send(request(1), request(3))
    return client


def test_an_abort_ends_all_calls() -> None:
    client = waiting()
    client.connection.abort()
    assert client.calls.events[-2:] == [("gone", 1), ("gone", 3)]
    assert client.connection.over
    assert client.connection.streams == {}


def test_a_reset_ends_one() -> None:
    client = waiting()
    client.connection.reset(3, ErrorCode.CANCEL)
    assert resets_of(client.read()) == [(3, "CANCEL")]
    assert client.calls.events[-1] == ("gone", 3)
    assert list(client.connection.streams) == [1]
    assert not client.connection.over


def test_a_connection_that_is_left_is_over_with_its_last_call() -> None:
    client = waiting()
    client.connection.leave()
    assert failure_of(client.read()) == "NO_ERROR"
    client.calls.answer(client.connection.streams[1], b"")
    assert not client.connection.over
    client.calls.answer(client.connection.streams[3], b"")
    assert client.connection.over
