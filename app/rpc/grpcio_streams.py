"""Stream methods, which are asynchronous, in grpcio's threads: each call has an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc

from app.rpc.method import Call, StreamMethod

_END = object()


def answers_of(method: StreamMethod, requests: Iterator[Any], context: Any, call: Call) -> Iterator[Any]:
    """The answers of a call, as grpcio asks for them.

    Args:
        method: to run.
        requests: of the client; its iterator blocks.
        context: of the call.
        call: what the method is told of it.

    Raises:
        ServingError: as the method does.
    """
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        queue: asyncio.Queue[Any] = asyncio.Queue()
        answers = method.handle(_from(queue), call)
        tasks: list[asyncio.Task[Any]] = []
        gone = asyncio.Event()

        def post(function: Callable[..., object], *arguments: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the call, and its loop, are over
                loop.call_soon_threadsafe(function, *arguments)

        def read() -> None:
            with contextlib.suppress(grpc.RpcError, Exception):  # the client is gone
                for request in requests:
                    post(queue.put_nowait, request)
            post(queue.put_nowait, _END)

        def end() -> None:
            gone.set()
            for task in tasks:
                task.cancel()

        async def following() -> Any:
            if gone.is_set():  # it went between two answers, when there was nothing to cancel
                return _END
            tasks[:] = [asyncio.ensure_future(anext(answers, _END))]
            return await tasks[0]

        threading.Thread(target=read, name="ferry-grpc-stream", daemon=True).start()
        if not context.add_callback(lambda: post(end)):
            return
        with contextlib.suppress(asyncio.CancelledError):
            while (answer := runner.run(following())) is not _END:
                yield answer


async def _from(queue: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    while (request := await queue.get()) is not _END:
        yield request
