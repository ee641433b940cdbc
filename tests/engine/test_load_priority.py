from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import pytest

from app.cpus import thread_seconds
from app.engine.load_priority import LoadPriority, aside, breathe

T = TypeVar("T")


@pytest.mark.parametrize(
    ("enabled", "requests", "loaded", "yields"),
    [
        (True, True, True, True),
        (True, True, False, False),
        (True, False, True, False),
        (False, True, True, False),
    ],
)
def test_who_yields(enabled: bool, requests: bool, loaded: bool, yields: bool) -> None:
    priority = LoadPriority(enabled=enabled)
    if requests:
        priority.requests_begin()
    if loaded:
        priority.loaded()
    usual = os.sched_getscheduler(0)

    def scheduler_of_a_load() -> int:
        priority.yield_to_requests()
        return os.sched_getscheduler(0)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(scheduler_of_a_load).result() == (os.SCHED_IDLE if yields else usual)
    assert os.sched_getscheduler(0) == usual


def in_a_load(work: Callable[[], T], *, enabled: bool = True) -> T:
    """What `work` returns in a thread that loads beside requests."""
    priority = LoadPriority(enabled=enabled)
    priority.requests_begin()
    priority.loaded()

    def load() -> T:
        priority.load_begins()
        return work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(load).result()


def compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@contextmanager
def requests_that_compute() -> Iterator[None]:
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            compute(1e-3)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(run)
        try:
            yield
        finally:
            ended.set()


def pauses(monkeypatch: pytest.MonkeyPatch, *, enabled: bool = True, seconds: float = 0.02) -> list[float]:
    """The pauses of a load that computes so long twice, each time with a breath."""
    found: list[float] = []
    monkeypatch.setattr("app.engine.load_priority.time.sleep", found.append)

    def work() -> None:
        for _ in range(2):
            compute(seconds)
            breathe()

    in_a_load(work, enabled=enabled)
    return found


def test_a_load_pauses_where_requests_compute_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with requests_that_compute():
        found = pauses(monkeypatch)
    assert len(found) == 2
    assert all(0.02 <= pause <= 0.1 for pause in found)


def test_a_load_goes_on_where_nobody_else_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pauses(monkeypatch) == []


def test_a_load_that_may_compete_does_not_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    with requests_that_compute():
        assert pauses(monkeypatch, enabled=False) == []


def test_what_is_short_needs_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    with requests_that_compute():
        assert pauses(monkeypatch, seconds=1e-4) == []


def test_what_leaves_the_gil_alone_runs_aside_in_the_idle_class() -> None:
    def scheduler_and_thread() -> tuple[int, int]:
        return os.sched_getscheduler(0), threading.get_ident()

    def both() -> tuple[tuple[int, int], tuple[int, int]]:
        return aside(scheduler_and_thread), scheduler_and_thread()

    usual = os.sched_getscheduler(0)
    (beside, other), (own, thread) = in_a_load(both)
    assert (beside, own) == (os.SCHED_IDLE, usual)
    assert other != thread
    (beside, other), (own, thread) = in_a_load(both, enabled=False)
    assert (beside, other) == (own, thread)


def test_what_runs_aside_counts_for_the_load() -> None:
    def seconds() -> float:
        start = thread_seconds()
        aside(compute, 0.02)
        return thread_seconds() - start

    assert in_a_load(seconds) >= 0.02


def test_an_error_comes_back_from_aside() -> None:
    def fail() -> None:
        raise KeyError("aside")

    with pytest.raises(KeyError, match="aside"):
        in_a_load(lambda: aside(fail))


def test_a_load_that_has_stepped_back_pauses_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    priority = LoadPriority()
    priority.requests_begin()
    priority.loaded()
    found: list[float] = []
    monkeypatch.setattr("app.engine.load_priority.time.sleep", found.append)

    def load() -> None:
        priority.load_begins()
        priority.yield_to_requests()
        compute(0.01)
        breathe()

    with requests_that_compute(), ThreadPoolExecutor(1) as pool:
        pool.submit(load).result()
    assert found == []
