"""The table's other kinds of streaming methods as `StreamMethod`s, which run on the loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from app.errors import Code, ServingError
from app.rpc.method import Call, DialogueMethod, Method, PushMethod, StreamMethod, Table

_END = object()


def adapted(table: Table, stopping: asyncio.Event) -> Mapping[str, Method | StreamMethod]:
    """`table` with unary and stream methods only.

    Dialogues end once `stopping` is set, for they have no end of their own.
    """
    methods: dict[str, Method | StreamMethod] = {}
    for path, method in table.items():
        if isinstance(method, PushMethod):
            methods[path] = StreamMethod(method.request, _Push(method))
        elif isinstance(method, DialogueMethod):
            methods[path] = StreamMethod(method.request, _Dialogue(method, stopping))
        else:
            methods[path] = method
    return methods


class _Push:
    def __init__(self, method: PushMethod) -> None:
        self._method = method

    async def __call__(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        del call
        loop = asyncio.get_running_loop()
        answers: asyncio.Queue[Any] = asyncio.Queue()

        def put(answer: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone, and the client with it
                loop.call_soon_threadsafe(answers.put_nowait, answer)

        async for request in requests:
            unsubscribe = self._method.subscribe(request, put)
            try:
                while (answer := await answers.get()) is not None:
                    yield answer
            finally:
                unsubscribe()
            return


class _Dialogue:
    def __init__(self, method: DialogueMethod, stopping: asyncio.Event) -> None:
        self._method = method
        self._stopping = stopping

    async def __call__(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        del call
        stop = asyncio.ensure_future(self._stopping.wait())
        following: asyncio.Future[Any] = stop
        try:
            while True:
                following = asyncio.ensure_future(anext(requests, _END))
                await asyncio.wait({following, stop}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    raise ServingError(Code.CANCELLED, "The server is stopping.")
                if (request := following.result()) is _END:
                    return
                yield self._method.answer(request)
        finally:  # the client may be gone at any of these points
            following.cancel()
            stop.cancel()
