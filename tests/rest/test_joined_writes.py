"""What goes out together, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.rest.joined_writes import JoinedWrites

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Recorder(asyncio.Transport):
    """Keeps what each write would send."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        assert not self.closed
        self.written.append(data)

    def writelines(self, list_of_data: Iterable[bytes]) -> None:  # type: ignore[override]
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def loop() -> Iterable[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def turn(loop: asyncio.AbstractEventLoop) -> None:
    """Let the loop do what it was to do soon."""
    loop.run_until_complete(asyncio.sleep(0))


def test_head_and_body_are_one_write(loop: asyncio.AbstractEventLoop) -> None:
    joined = JoinedWrites(recorder := Recorder(), loop)
    for _ in range(2):
        joined.write(HEAD)
        joined.write(b"a")
        joined.write(b"b")
        joined.end()
    assert recorder.written == [HEAD + b"a", b"b"] * 2
    turn(loop)
    assert recorder.written == [HEAD + b"a", b"b"] * 2


def test_a_head_does_not_wait_for_a_late_body(loop: asyncio.AbstractEventLoop) -> None:
    joined = JoinedWrites(recorder := Recorder(), loop)
    joined.write(HEAD)
    assert recorder.written == []
    turn(loop)
    assert recorder.written == [HEAD]
    joined.write(b"a")
    assert recorder.written == [HEAD, b"a"]


def test_continue_goes_out_at_once(loop: asyncio.AbstractEventLoop) -> None:
    joined = JoinedWrites(recorder := Recorder(), loop)
    joined.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert recorder.written == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    joined.write(HEAD)
    joined.write(b"a")
    assert recorder.written[1:] == [HEAD + b"a"]


def test_a_head_for_a_client_that_has_gone_is_not_written(loop: asyncio.AbstractEventLoop) -> None:
    joined = JoinedWrites(recorder := Recorder(), loop)
    joined.write(HEAD)
    recorder.close()
    turn(loop)
    assert recorder.written == []


@pytest.mark.parametrize("ending", ["end", "close"])
def test_a_head_without_a_body_is_not_lost(loop: asyncio.AbstractEventLoop, ending: str) -> None:
    joined = JoinedWrites(recorder := Recorder(), loop)
    joined.write(HEAD)
    getattr(joined, ending)()
    assert recorder.written == [HEAD]
    assert joined.is_closing() is (ending == "close")


@given(
    st.lists(
        st.sampled_from([HEAD, b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 is a body", b"a", b"", None])
    )
)
def test_nothing_is_lost_or_out_of_order(steps: list[bytes | None]) -> None:
    """Whatever is written; None for the end of an answer."""
    loop = asyncio.new_event_loop()
    joined = JoinedWrites(recorder := Recorder(), loop)
    for step in steps:
        joined.end() if step is None else joined.write(step)
    turn(loop)
    loop.close()
    assert b"".join(recorder.written) == b"".join(step for step in steps if step is not None)
