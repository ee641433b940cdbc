from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from app.telemetry.backlog import Backlog


def test_items_are_done_in_order_by_one_other_thread_and_the_end_waits_for_them() -> None:
    done: list[int] = []
    threads: set[str] = set()

    def work(items: Sequence[int]) -> None:
        done.extend(items)
        threads.add(threading.current_thread().name)

    backlog: Backlog[int] = Backlog("worker", work, most=1000)
    assert all(backlog.put(number) for number in range(500))
    assert backlog.stop(time.monotonic() + 30)
    assert done == list(range(500))
    assert threads == {"worker"}
    assert not backlog.put(1)


def test_too_many_and_too_large_ones_are_refused_until_there_is_room() -> None:
    working, go_on = threading.Event(), threading.Event()

    def work(items: Sequence[str]) -> None:
        del items
        working.set()
        go_on.wait(30)

    backlog: Backlog[str] = Backlog("worker", work, most=2, most_bytes=10)
    assert backlog.put("a", 6)
    assert not backlog.put("b", 6)
    working.wait(30)
    assert not backlog.put("b", 6)  # what is being done counts
    assert backlog.put("c", 2)
    assert backlog.put("d", 2)
    assert not backlog.put("e", 0)
    assert not backlog.stop(time.monotonic())
    go_on.set()
    assert backlog.stop(time.monotonic() + 30)


def test_a_failure_is_logged_and_the_next_items_are_done(caplog: pytest.LogCaptureFixture) -> None:
    failed, done = threading.Event(), threading.Event()

    def work(items: Sequence[int]) -> None:
        if items[0] == 0:
            failed.set()
            raise KeyError(items)
        done.set()

    backlog: Backlog[int] = Backlog("worker", work, most=10)
    backlog.put(0)
    assert failed.wait(30)
    while not done.is_set():
        backlog.put(1)
        done.wait(0.1)
    assert backlog.stop(time.monotonic() + 30)
    assert "worker failed unexpectedly" in caplog.text


def test_one_that_was_never_used_ends_at_once() -> None:
    assert Backlog[int]("worker", lambda _: None, most=1).stop(time.monotonic())
