from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from app.engine.batching import threads as threads_module
from app.engine.batching.threads import Threads
from tests.support.process import wait_until

NAME = "test-threads"


def running() -> int:
    return sum(thread.name == NAME for thread in threading.enumerate())


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads(NAME)
    yield made
    made.close()
    wait_until(lambda: not running(), "they end")


def work(
    threads: Threads, seen: list[int | None], then: Callable[[], object] = lambda: None
) -> threading.Event:
    done = threading.Event()

    def run() -> None:
        seen.append(threading.get_ident())
        threads.free()
        then()
        done.set()

    assert threads.run(run)
    return done


def test_what_follows_is_run_by_the_same_thread(threads: Threads) -> None:
    seen: list[int | None] = []
    for _ in range(5):
        assert work(threads, seen).wait(60)
    nested: list[threading.Event] = []
    assert work(threads, seen, lambda: nested.append(work(threads, seen))).wait(60)
    assert nested[0].wait(60)
    assert len(seen) == 7
    assert len(set(seen)) == running() == 1


def test_work_at_the_same_time_has_threads_of_its_own(threads: Threads) -> None:
    both = threading.Barrier(2)

    def meet() -> None:
        both.wait(60)
        threads.free()

    assert threads.run(meet)
    assert threads.run(meet)
    wait_until(lambda: threads._free == 2, "both have run")
    assert running() == 2


def test_idle_threads_end_and_others_are_made(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "_IDLE_SECONDS", 0.001)
    for _ in range(3):
        assert work(threads, []).wait(60)
        wait_until(lambda: not running(), "it ends")
    assert threads._count == threads._free == 0


def test_closed_they_take_no_more(threads: Threads) -> None:
    threads.close()
    assert not threads.run(lambda: None)


def test_the_system_has_no_room(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert not threads.run(lambda: None)
