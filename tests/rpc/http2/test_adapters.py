from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue as Text

from app.errors import Code, ServingError
from app.rpc.http2.adapters import adapted
from app.rpc.method import AnyMethod, Call, DialogueMethod, Method, PushMethod, StreamMethod

PATH = "/test.Service/Method"


def stream(method: AnyMethod, stopping: asyncio.Event) -> StreamMethod:
    made = adapted({PATH: method}, stopping)[PATH]
    assert isinstance(made, StreamMethod)
    return made


def play(scene: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run `scene`, and check that it leaves no task behind."""

    async def run() -> None:
        async with asyncio.timeout(60):
            await scene(asyncio.Event())
            while asyncio.all_tasks() != {asyncio.current_task()}:
                await asyncio.sleep(0)

    asyncio.run(run())


async def sent(*requests: str, then_wait: bool = False) -> AsyncIterator[Any]:
    for request in requests:
        yield Text(value=request)
    if then_wait:
        await asyncio.Event().wait()


class Subscriptions:
    """What `subscribe` was given, until it was ended."""

    def __init__(self) -> None:
        self.open: dict[str, Callable[[Any], None]] = {}

    def subscribe(self, request: Any, send: Callable[[Any], None]) -> Callable[[], None]:
        self.open[request.value] = send

        def unsubscribe() -> None:
            del self.open[request.value]

        return unsubscribe


def test_unary_and_stream_methods_stay_what_they_are() -> None:
    async def scene(stopping: asyncio.Event) -> None:
        unary = Method(Text, lambda request, call: request)  # noqa: ARG005
        streaming = StreamMethod(Text, lambda requests, call: requests)  # noqa: ARG005
        assert adapted({"/a": unary, "/b": streaming}, stopping) == {"/a": unary, "/b": streaming}

    play(scene)


def test_a_push_sends_what_comes_from_any_thread_until_its_end() -> None:
    async def scene(stopping: asyncio.Event) -> None:
        subscriptions = Subscriptions()
        method = stream(PushMethod(Text, subscriptions.subscribe), stopping)
        answers = method.handle(sent("a", then_wait=True), Call())
        first = asyncio.ensure_future(anext(answers))
        while not subscriptions.open:
            await asyncio.sleep(0)
        send = subscriptions.open["a"]
        for value in ("one", "two"):
            await asyncio.to_thread(send, value)
        await asyncio.to_thread(send, None)
        assert [await first, *[answer async for answer in answers]] == ["one", "two"]
        assert subscriptions.open == {}

    play(scene)


def test_a_client_that_goes_ends_its_subscription() -> None:
    async def scene(stopping: asyncio.Event) -> None:
        subscriptions = Subscriptions()
        method = stream(PushMethod(Text, subscriptions.subscribe), stopping)
        following = asyncio.ensure_future(anext(method.handle(sent("a"), Call())))
        while not subscriptions.open:
            await asyncio.sleep(0)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        assert subscriptions.open == {}

    play(scene)


def test_a_dialogue_answers_each_message_and_ends_with_its_client() -> None:
    async def scene(stopping: asyncio.Event) -> None:
        method = stream(DialogueMethod(Text, lambda request: request.value.upper()), stopping)
        assert [answer async for answer in method.handle(sent("a", "b"), Call())] == ["A", "B"]

    play(scene)


def test_an_open_dialogue_ends_when_the_server_stops() -> None:
    async def scene(stopping: asyncio.Event) -> None:
        method = stream(DialogueMethod(Text, lambda request: request.value), stopping)
        answers = method.handle(sent("a", then_wait=True), Call())
        assert await anext(answers) == "a"
        asyncio.get_running_loop().call_soon(stopping.set)
        with pytest.raises(ServingError) as raised:
            await anext(answers)
        assert raised.value.code is Code.CANCELLED

    play(scene)


def test_a_client_that_goes_in_a_dialogue_leaves_nothing_behind() -> None:
    async def scene(stopping: asyncio.Event) -> None:
        method = stream(DialogueMethod(Text, lambda request: request.value), stopping)
        answers = method.handle(sent("a", then_wait=True), Call())
        assert await anext(answers) == "a"
        following = asyncio.ensure_future(anext(answers))
        await asyncio.sleep(0)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following

    play(scene)
