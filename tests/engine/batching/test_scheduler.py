from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from app.config.batching import BatchingParameters
from app.engine.batching.queue import Batch, Queue
from app.engine.batching.scheduler import Scheduler
from app.errors import Code, ServingError
from tests.support.process import wait_until

LONG = 3600 * 1_000_000
SECONDS = 60.0

MakeScheduler = Callable[[int], Scheduler]


@dataclass(frozen=True, eq=False)
class Task:
    rows: int = 1
    name: str = ""


def queue(run: Callable[[Batch[Task]], None], **parameters: Any) -> Queue[Task]:
    return Queue(BatchingParameters(**parameters), run)


@pytest.fixture
def make() -> Iterator[MakeScheduler]:
    """Makes schedulers that run, and sees to it that their threads end."""
    made: list[Scheduler] = []

    def start(threads: int) -> Scheduler:
        scheduler = Scheduler(threads, "test-batch")
        made.append(scheduler)
        scheduler.start()
        return scheduler

    yield start
    for scheduler in made:
        scheduler.stop()
    wait_until(lambda: not running("test-batch"), "the threads end")


def running(name: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(name)]


class Gate:
    """A queue whose batches stay in their thread until they are let go; the names of the tasks so far."""

    def __init__(self, **parameters: Any) -> None:
        self.names: list[str] = []
        self.entered = threading.Semaphore(0)
        self.open = threading.Semaphore(0)
        self.queue = queue(self._run, **parameters)

    def _run(self, batch: Batch[Task]) -> None:
        self.names.append("".join(piece.task.name for piece in batch.pieces))
        self.entered.release()
        assert self.open.acquire(timeout=SECONDS)

    def wait_entered(self) -> None:
        assert self.entered.acquire(timeout=SECONDS)


def test_the_threads_carry_the_name_of_the_pool(make: MakeScheduler) -> None:
    make(3)
    assert sorted(running("test-batch")) == ["test-batch-0", "test-batch-1", "test-batch-2"]


def test_batches_grow_while_all_threads_are_busy(make: MakeScheduler) -> None:
    scheduler, gate = make(1), Gate()
    scheduler.submit(gate.queue, Task(name="a"))
    gate.wait_entered()
    for name in "bcd":
        scheduler.submit(gate.queue, Task(name=name))
    gate.open.release(2)
    gate.wait_entered()
    assert gate.names == ["a", "bcd"]


def test_as_many_batches_run_at_a_time_as_there_are_threads(make: MakeScheduler) -> None:
    scheduler, gate = make(3), Gate(max_batch_size=1)
    for name in "abcd":
        scheduler.submit(gate.queue, Task(name=name))
    for _ in range(3):
        gate.wait_entered()
    assert sorted(gate.names) == ["a", "b", "c"]
    assert not gate.queue.is_empty
    gate.open.release(4)
    gate.wait_entered()
    assert gate.names[3] == "d"


def test_queues_are_visited_in_turn_one_batch_a_visit(make: MakeScheduler) -> None:
    scheduler = make(1)
    plug = Gate()
    scheduler.submit(plug.queue, Task())
    plug.wait_entered()
    order: list[str] = []
    done = threading.Semaphore(0)

    def note(batch: Batch[Task]) -> None:
        order.append(batch.pieces[0].task.name)
        done.release()

    queues = {name: queue(note, max_batch_size=1) for name in "abc"}
    for name, count in (("a", 4), ("b", 1), ("c", 2)):
        for _ in range(count):
            scheduler.submit(queues[name], Task(name=name))
    plug.open.release()
    for _ in range(7):
        assert done.acquire(timeout=SECONDS)
    assert "".join(order) == "abcacaa"


def test_a_batch_runs_when_its_time_has_come_and_not_before_the_one_of_another_queue(
    make: MakeScheduler,
) -> None:
    scheduler = make(2)
    order: list[str] = []
    done = threading.Semaphore(0)

    def note(batch: Batch[Task]) -> None:
        order.append(batch.pieces[0].task.name)
        done.release()

    # The later moment is known first: an alarm that is set already must not hide an earlier one.
    scheduler.submit(queue(note, batch_timeout_micros=400_000), Task(name="late"))
    scheduler.submit(queue(note, batch_timeout_micros=1_000), Task(name="early"))
    for _ in range(2):
        assert done.acquire(timeout=SECONDS)
    assert order == ["early", "late"]


def test_a_batch_that_fills_up_does_not_wait(make: MakeScheduler) -> None:
    scheduler, gate = make(2), Gate(max_batch_size=3, batch_timeout_micros=LONG)
    for name in "abc":
        scheduler.submit(gate.queue, Task(name=name))
    gate.wait_entered()
    gate.open.release()
    assert gate.names == ["abc"]


def test_what_a_queue_refuses_reaches_the_caller_and_nobody_else(make: MakeScheduler) -> None:
    scheduler, gate = make(1), Gate(max_batch_size=3, batch_timeout_micros=LONG)
    with pytest.raises(ServingError, match="Task size 4 is larger"):
        scheduler.submit(gate.queue, Task(4))
    scheduler.submit(gate.queue, Task(3, "a"))
    gate.wait_entered()
    gate.open.release()


def test_an_exception_does_not_end_a_thread(make: MakeScheduler, caplog: pytest.LogCaptureFixture) -> None:
    scheduler, gate = make(1), Gate()

    def fail(_: Batch[Task]) -> None:
        raise SystemExit("broken")

    scheduler.submit(queue(fail), Task())
    scheduler.submit(gate.queue, Task(name="a"))
    gate.wait_entered()
    gate.open.release()
    assert gate.names == ["a"]
    assert "broken" in caplog.text


def test_when_it_drains_no_batch_waits_for_more(make: MakeScheduler) -> None:
    scheduler, gate = make(1), Gate(batch_timeout_micros=LONG)
    gate.open.release(2)
    scheduler.submit(gate.queue, Task(name="a"))
    scheduler.drain()
    gate.wait_entered()
    scheduler.submit(gate.queue, Task(name="b"))
    gate.wait_entered()
    assert gate.names == ["a", "b"]


def test_when_it_stops_what_waits_is_run_and_no_more_is_taken(make: MakeScheduler) -> None:
    scheduler, gate = make(1), Gate(max_batch_size=1, batch_timeout_micros=LONG)
    for name in "abc":
        scheduler.submit(gate.queue, Task(name=name))
    gate.wait_entered()
    scheduler.stop()
    with pytest.raises(ServingError) as raised:
        scheduler.submit(gate.queue, Task())
    assert raised.value.code is Code.UNAVAILABLE
    gate.open.release(3)
    wait_until(lambda: not running("test-batch"), "the threads end")
    assert gate.names == ["a", "b", "c"]


def test_too_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(ServingError) as raised:
        Scheduler(7, "x").start()
    assert raised.value.code is Code.RESOURCE_EXHAUSTED
    assert raised.value.message == (
        "num_batch_threads is 7, but only 0 threads could be started (can't start new thread); use fewer."
    )
