from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from app.errors import ServingError, invalid_argument
from app.rpc.grpcio_streams import answers_of
from app.rpc.method import Call, StreamMethod

CALL = Call(12.5)


class Context:
    """What `answers_of` needs of grpcio's context: it tells when the client is gone."""

    def __init__(self, *, gone: bool = False) -> None:
        self.gone = gone
        self.callback: Callable[[], None] | None = None

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self.callback = callback
        return not self.gone


def method(handle: Callable[[AsyncIterator[Any], Call], AsyncIterator[Any]]) -> StreamMethod:
    return StreamMethod(str, handle)


async def echo(requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
    assert call is CALL
    async for request in requests:
        yield f"{request}!"


async def endless(requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
    del requests, call
    yield "first"
    await asyncio.Event().wait()


def test_each_request_is_answered_and_the_end_of_requests_ends_the_call() -> None:
    assert list(answers_of(method(echo), iter("abc"), Context(), CALL)) == ["a!", "b!", "c!"]


def test_an_answer_does_not_wait_for_the_next_request() -> None:
    asked: list[int] = []
    may_ask = threading.Semaphore(1)

    def requests() -> Iterator[int]:
        for number in itertools.count():
            may_ask.acquire()
            asked.append(number)
            yield number

    answers = answers_of(method(echo), requests(), Context(), CALL)
    assert next(answers) == "0!"
    assert asked == [0]
    may_ask.release()
    assert next(answers) == "1!"
    del answers  # as grpcio does once the call is over: this ends the method


def test_an_error_of_the_method_is_raised_after_the_answers_before_it() -> None:
    async def refuse(requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        del call
        yield await anext(requests)
        raise invalid_argument("no more")

    answers = answers_of(method(refuse), iter("ab"), Context(), CALL)
    assert next(answers) == "a"
    with pytest.raises(ServingError, match="no more"):
        next(answers)


def test_requests_that_break_off_are_the_end_of_requests() -> None:
    def requests() -> Iterator[str]:
        yield "a"
        raise RuntimeError("the client is gone")

    assert list(answers_of(method(echo), requests(), Context(), CALL)) == ["a!"]


def rest_of(answers: Iterator[Any]) -> list[Any]:
    """What is still answered; fails if there is no end to it."""
    rest: list[Any] = []
    reader = threading.Thread(target=lambda: rest.extend(answers), daemon=True)
    reader.start()
    reader.join(60)
    assert not reader.is_alive()
    return rest


def test_a_client_that_goes_between_two_answers_ends_the_method() -> None:
    context = Context()
    answers = answers_of(method(endless), iter(()), context, CALL)
    assert next(answers) == "first"
    assert context.callback is not None
    context.callback()
    assert rest_of(answers) == []


def test_a_client_that_goes_ends_a_method_that_waits() -> None:
    context, waits = Context(), threading.Event()
    cancelled = threading.Event()

    async def wait(requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        del call
        waits.set()
        try:
            async for request in requests:
                yield request
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def go() -> Iterator[Any]:
        """The client, who goes once the method waits for it."""
        assert waits.wait(60)
        assert context.callback is not None
        context.callback()
        assert cancelled.wait(60)
        yield from ()

    assert rest_of(answers_of(method(wait), go(), context, CALL)) == []
    assert cancelled.is_set()


def test_a_client_that_has_gone_already_is_answered_nothing() -> None:
    assert list(answers_of(method(endless), iter("a"), Context(gone=True), CALL)) == []


def test_news_that_come_after_the_end_harm_nobody() -> None:
    context = Context()
    assert list(answers_of(method(echo), iter("a"), context, CALL)) == ["a!"]
    assert context.callback is not None
    context.callback()
