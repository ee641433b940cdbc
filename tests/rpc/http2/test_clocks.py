from __future__ import annotations

from typing import Any

import pytest

from app.rpc.http2 import frames
from app.rpc.http2.clocks import Clocks
from app.rpc.http2.limits import Limits
from tests.rpc.http2.wire import HELLO, Client, data, headers, kinds


class Timed:
    """A client, and a connection whose clocks are moved by hand."""

    def __init__(self, hello: bytes = HELLO, **limits: Any) -> None:
        self.now = 100.0
        self.client = Client(now=lambda: self.now, hello=hello, **limits)
        age = limits.get("age_seconds", Limits().age_seconds)
        self.clocks = Clocks(self.client.connection, Limits(**limits), age)

    def after(self, seconds: float, *, paused: bool = False) -> bool:
        self.now += seconds
        return self.clocks.tick(self.now, paused=paused)


def test_a_client_that_never_greets_is_left() -> None:
    timed = Timed(hello=b"", handshake_seconds=5)
    assert timed.after(4)
    assert not timed.after(1)


def test_a_quiet_client_is_asked_for_a_sign_of_life_while_it_has_calls() -> None:
    timed = Timed(keepalive_seconds=10, keepalive_timeout_seconds=5)
    assert timed.after(100)
    assert timed.client.read() == []
    timed.client.calls.answering = False
    timed.client.send(headers(1))
    assert timed.after(9)
    assert timed.client.read() == []
    assert timed.after(1)
    ((kind, flags, _, payload),) = timed.client.read()
    assert (kind, flags) == (frames.PING, 0)
    assert timed.after(4)
    timed.client.send(frames.frame(frames.PING, frames.ACK, 0, payload))
    assert timed.after(9)
    assert timed.client.read() == []
    assert timed.after(1)
    assert timed.after(4)
    assert not timed.after(1), "no answer this time"


def test_a_quiet_client_without_calls_is_asked_if_told_to() -> None:
    timed = Timed(keepalive_seconds=10, keepalive_without_calls=True)
    timed.after(10)
    assert len(kinds(timed.client.read(), frames.PING)) == 1


def test_answers_wait_so_long_for_a_window() -> None:
    timed = Timed(stall_seconds=10)
    assert timed.after(1000)
    timed.client.send(headers(1), data(1, bytes(100_000), end=True))
    assert timed.after(9)
    timed.client.send(frames.window_update(0, 10), frames.window_update(1, 10))
    assert timed.after(9), "some went out"
    assert timed.after(9)
    assert not timed.after(1)


def test_a_full_socket_is_a_stall_too() -> None:
    timed = Timed(stall_seconds=10)
    assert timed.after(9, paused=True)
    assert timed.after(9, paused=False)
    assert timed.after(9, paused=True)
    assert not timed.after(1, paused=True)


def test_a_connection_that_is_over_has_so_long_to_send_the_rest() -> None:
    timed = Timed(stall_seconds=10)
    timed.client.send(frames.window_update(0, 0))
    assert timed.after(1)
    assert timed.after(9)
    assert not timed.after(1)


def test_an_idle_connection_is_told_to_go() -> None:
    timed = Timed(idle_seconds=10)
    timed.client.calls.answering = False
    timed.client.send(headers(1))
    assert timed.after(20)
    assert timed.client.connection.draining is None
    timed.client.send(frames.rst_stream(1, frames.ErrorCode.CANCEL))
    assert timed.after(9)
    assert timed.client.connection.draining is None
    assert timed.after(1)
    assert timed.client.connection.draining is not None
    assert timed.after(1)
    assert timed.client.connection.over, "it may not answer the farewell"


@pytest.mark.parametrize("grace", [5, float("inf")])
def test_an_old_connection_ends_when_its_calls_have(grace: float) -> None:
    timed = Timed(age_seconds=10, age_grace_seconds=grace)
    timed.client.calls.answering = False
    timed.client.send(headers(1))
    assert timed.after(9)
    assert timed.client.connection.draining is None
    assert timed.after(1)
    assert timed.after(4)
    assert timed.client.connection.left
    assert not timed.client.connection.over
    assert timed.after(1) is (grace > 5)
