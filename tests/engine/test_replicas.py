from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.dtypes import Array
from app.engine.model import Model
from app.engine.replicas import ReplicatedModel

X = np.zeros(1, np.float32)


class Fake(Model):
    """Counts what reaches it; runs last until `gate` opens."""

    def __init__(self, *, is_open: bool = True) -> None:
        super().__init__({})
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)
        self.running = self.most = self.calls = 0
        self.closed = False
        self.error: Exception | None = None
        self._lock = threading.Lock()
        if is_open:
            self.gate.set()

    def call(
        self,
        feeds: tuple[str, ...],
        values: Sequence[Array],
        fetches: tuple[str, ...],
        deadline: float | None,
    ) -> list[Array]:
        del feeds, values, fetches, deadline
        with self._lock:
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)
        self.started.release()
        assert self.gate.wait(60)
        with self._lock:
            self.running -= 1
        if self.error is not None:
            raise self.error
        return [X]

    def close(self) -> None:
        self.closed = True
        if self.error is not None:
            raise self.error


def run(model: Model) -> None:
    model.run_tensors((), {}, ("y:0",))


def test_idle_replicas_take_turns() -> None:
    fakes = [Fake() for _ in range(3)]
    model = ReplicatedModel(fakes)
    for _ in range(7):
        run(model)
    assert [fake.calls for fake in fakes] == [3, 2, 2]


def test_requests_go_around_a_busy_replica() -> None:
    slow, quick = Fake(is_open=False), Fake()
    model = ReplicatedModel([slow, quick])
    with ThreadPoolExecutor() as pool:
        held = pool.submit(run, model)
        assert slow.started.acquire(timeout=60)
        for _ in range(5):
            run(model)
        assert (slow.calls, quick.calls) == (1, 5)
        slow.gate.set()
        held.result(60)
    run(model)
    run(model)
    assert (slow.calls, quick.calls) == (2, 6)


@given(st.integers(1, 4), st.integers(0, 12))
def test_requests_at_a_time_are_spread_evenly(replicas: int, requests: int) -> None:
    fakes = [Fake(is_open=False) for _ in range(replicas)]
    model = ReplicatedModel(fakes)
    with ThreadPoolExecutor(max(1, requests)) as pool:
        running = [pool.submit(run, model) for _ in range(requests)]
        for index in range(requests):
            assert fakes[index % replicas].started.acquire(timeout=60)
        counts = [fake.calls for fake in fakes]
        for fake in fakes:
            fake.gate.set()
        for future in running:
            future.result(60)
    assert max(counts) - min(counts) <= 1


def test_a_request_that_fails_is_over() -> None:
    bad, good = Fake(), Fake(is_open=False)
    bad.error = RuntimeError("no")
    model = ReplicatedModel([bad, good])
    with ThreadPoolExecutor() as pool:
        with pytest.raises(RuntimeError):
            run(model)
        held = pool.submit(run, model)
        assert good.started.acquire(timeout=60)
        with pytest.raises(RuntimeError):  # the failed one is idle again
            run(model)
        good.gate.set()
        held.result(60)


def test_close_closes_all_even_if_one_fails() -> None:
    fakes = [Fake() for _ in range(3)]
    fakes[1].error = RuntimeError("no")
    with pytest.raises(RuntimeError):
        ReplicatedModel(fakes).close()
    assert all(fake.closed for fake in fakes)
