"""Where and when calls run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue as Text

from app.errors import ServingError
from app.placement import Placement
from app.rpc.http2.headers import read_head
from app.rpc.http2.limits import Limits
from app.rpc.http2.runs import Runs
from app.rpc.http2.service import Service
from app.rpc.http2.streams import Stream
from app.rpc.http2.unary_call import UnaryCall
from app.rpc.method import Method
from tests.rpc.http2.wire import REQUEST, Client

DATA = Text(value="x").SerializeToString()


class Scene:
    """Runs with one thread, whose calls wait to be let go."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.go = threading.Event()
        self.answers: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        service = Service({}, Limits(), Placement(), threads, 1, loop)
        self.runs = Runs(
            Client().connection, service, answer=self._answer, arm=lambda _: None, flush=lambda: None
        )

    def _answer(self, stream: Stream, answer: bytes | ServingError) -> None:
        assert answer == DATA
        self.answers.put_nowait(stream.id)

    def _wait(self, request: Any, call: Any) -> Any:
        del call
        assert self.go.wait(60)
        return request

    def place(self, number: int) -> UnaryCall:
        head = read_head([(name.encode(), value.encode()) for name, value in REQUEST])
        stream = Stream(number, head, window=0, receive_window=0)
        call = UnaryCall(stream, Method(Text, self._wait, blocks=True), None, lambda: None)
        call.message = DATA, False
        self.runs.place(call)
        return call


def play(scene: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as threads:
            made = Scene(threads)
            try:
                async with asyncio.timeout(60):
                    await scene(made)
            finally:
                made.go.set()

    asyncio.run(run())


def test_a_call_without_a_thread_waits_for_one() -> None:
    async def scene(made: Scene) -> None:
        made.place(1)
        made.place(3)
        assert (made.runs.held_bytes, made.runs.pending) == (len(DATA), False)
        made.go.set()
        assert await made.answers.get() == 1
        assert made.runs.pending
        made.runs.resume()
        assert made.runs.held_bytes == 0
        assert await made.answers.get() == 3

    play(scene)


@pytest.mark.parametrize("forgotten", [0, 1])
def test_a_call_that_nobody_waits_for_holds_nothing(forgotten: int) -> None:
    async def scene(made: Scene) -> None:
        calls = [made.place(1), made.place(3), made.place(5)]
        made.runs.forget(calls[1 + forgotten])
        assert made.runs.held_bytes == len(DATA)
        made.go.set()
        assert await made.answers.get() == 1
        made.runs.resume()
        assert await made.answers.get() == (5, 3)[forgotten]
        assert not made.runs.pending

    play(scene)
