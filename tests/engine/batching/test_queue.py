"""The scheduling rules, by a clock that the tests turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from app.config.batching import BatchingParameters
from app.engine.batching.queue import ALWAYS, NEVER, Batch, Queue
from app.errors import ServingError


@dataclass(frozen=True, eq=False)
class Task:
    rows: int


def queue(**parameters: Any) -> Queue[Task]:
    return Queue(BatchingParameters(**parameters), lambda _: None)


def splitting(execution: int, most: int = 10, **parameters: Any) -> Queue[Task]:
    return queue(
        enable_large_batch_splitting=True,
        max_execution_batch_size=execution,
        max_enqueued_batches=most,
        **parameters,
    )


def sizes(batch: Batch[Task] | None) -> list[int]:
    assert batch is not None
    assert batch.rows == sum(piece.rows for piece in batch.pieces)
    return [piece.rows for piece in batch.pieces]


def refusal(queue: Queue[Task], rows: int) -> str:
    with pytest.raises(ServingError) as raised:
        queue.add(Task(rows), 0)
    return str(raised.value)


def test_nothing_waits_at_first() -> None:
    empty = queue()
    assert (empty.is_empty, empty.ready_at, empty.take(NEVER)) == (True, NEVER, None)


def test_without_a_timeout_a_batch_is_ready_at_once() -> None:
    found = queue()
    found.add(Task(3), 7.0)
    assert (found.is_empty, found.ready_at) == (False, 7.0)
    found.add(Task(2), 8.0)
    assert sizes(found.take(8.0)) == [3, 2]
    assert (found.is_empty, found.ready_at) == (True, NEVER)


def test_an_open_batch_waits_until_its_oldest_task_is_old_enough() -> None:
    found = queue(batch_timeout_micros=2_000_000)
    found.add(Task(1), 10.0)
    found.add(Task(1), 11.5)
    assert found.ready_at == 12.0
    assert found.take(11.999) is None
    assert sizes(found.take(12.0)) == [1, 1]
    found.add(Task(1), 12.0)
    assert found.ready_at == 14.0


def test_a_full_batch_is_ready_at_once() -> None:
    found = queue(max_batch_size=4, batch_timeout_micros=10**9)
    found.add(Task(3), 0)
    assert found.ready_at == 1000.0
    found.add(Task(1), 0)
    assert found.ready_at == ALWAYS
    assert sizes(found.take(0)) == [3, 1]


def test_a_batch_with_a_newer_one_behind_it_is_ready_at_once() -> None:
    found = queue(max_batch_size=4, batch_timeout_micros=10**9)
    found.add(Task(3), 0)
    found.add(Task(2), 5)
    assert sizes(found.take(5)) == [3]
    assert found.ready_at == 1005.0
    found.add(Task(2), 6)
    assert sizes(found.take(6)) == [2, 2]


def test_a_task_that_does_not_fit_opens_a_batch_and_later_ones_join_that() -> None:
    found = queue(max_batch_size=4)
    for rows in (2, 3, 1, 2):
        found.add(Task(rows), 0)
    assert [sizes(found.take(0)) for _ in range(3)] == [[2], [3, 1], [2]]


@pytest.mark.parametrize("found", [queue(max_batch_size=4), splitting(2, max_batch_size=4)])
def test_a_task_with_too_many_rows(found: Queue[Task]) -> None:
    assert refusal(found, 5) == "INVALID_ARGUMENT: Task size 5 is larger than maximum input batch size 4"
    found.add(Task(4), 0)


FULL = "UNAVAILABLE: The batch scheduling queue to which this task was submitted is full; "


@pytest.mark.parametrize("most", [0, 1])
def test_a_full_queue(most: int) -> None:
    found = queue(max_batch_size=4, max_enqueued_batches=most)
    found.add(Task(3), 0)
    assert refusal(found, 2) == FULL + "currently 1 batches enqueued and max_enqueued_batches is 1"
    found.add(Task(1), 0)
    assert refusal(found, 1) == FULL + "currently 1 batches enqueued and max_enqueued_batches is 1"
    found.take(0)
    found.add(Task(4), 0)


def test_a_full_queue_of_more_batches() -> None:
    found = queue(max_batch_size=4, max_enqueued_batches=3)
    for _ in range(3):
        found.add(Task(4), 0)
    assert refusal(found, 1) == FULL + "currently 3 batches enqueued and max_enqueued_batches is 3"
    found.take(0)
    found.add(Task(1), 0)


def test_a_task_that_does_not_fit_is_cut() -> None:
    found = splitting(4)
    found.add(Task(3), 0)
    found.add(Task(10), 0)
    found.add(Task(2), 0)
    batches = [found.take(0) for _ in range(4)]
    assert [sizes(batch) for batch in batches] == [[3, 1], [4], [4], [1, 2]]
    cut = [(piece.start, piece.stop) for batch in batches if batch for piece in batch.pieces]
    assert cut == [(0, 3), (0, 1), (1, 5), (5, 9), (9, 10), (0, 2)]


def test_a_task_that_is_cut_behind_a_full_batch_begins_a_new_one() -> None:
    found = splitting(4)
    found.add(Task(4), 0)
    found.add(Task(5), 0)
    assert [sizes(found.take(0)) for _ in range(3)] == [[4], [4], [1]]


def test_the_capacity_when_tasks_are_cut() -> None:
    found = splitting(4, most=1, max_batch_size=100)
    assert refusal(found, 8) == (
        FULL + "task size is 8 but scheduling capacity is only 4 (num_enqueued_batches=1, "
        "max_enqueued_batches=1, open_batch_size=0, max_execution_batch_size=4)"
    )
    found = splitting(4, most=3, max_batch_size=100)
    found.add(Task(6), 0)
    assert refusal(found, 7) == (
        FULL + "task size is 7 but scheduling capacity is only 6 (num_enqueued_batches=2, "
        "max_enqueued_batches=3, open_batch_size=2, max_execution_batch_size=4)"
    )
    found.add(Task(6), 0)


class AnyTraffic(RuleBasedStateMachine):
    """Whatever comes and is taken: every row leaves once, in order, in batches within the limit."""

    @initialize(
        limit=st.integers(1, 6),
        most=st.integers(1, 4),
        splits=st.booleans(),
        more=st.integers(0, 10),
        timeout=st.integers(0, 5),
    )
    def begin(self, limit: int, most: int, splits: bool, more: int, timeout: int) -> None:
        self.now = 0.0
        self.limit, self.most, self.timeout = limit, most, float(timeout)
        self.most_rows = limit + more if splits else limit
        self.queue: Queue[Task] = queue(
            max_batch_size=self.most_rows,
            max_execution_batch_size=limit,
            max_enqueued_batches=most,
            enable_large_batch_splitting=splits,
            batch_timeout_micros=timeout * 1_000_000,
        )
        self.came: list[tuple[Task, int, float]] = []  # the rows that wait, and when they came

    @rule(rows=st.integers(1, 20))
    def add(self, rows: int) -> None:
        task = Task(rows)
        refused = None
        try:
            self.queue.add(task, self.now)
        except ServingError as error:
            refused = str(error)
        if rows > self.most_rows:
            assert refused == (
                f"INVALID_ARGUMENT: Task size {rows} is larger than maximum input batch size {self.most_rows}"
            )
        elif refused is not None:
            assert refused.startswith(FULL)
            assert self.came or rows > self.most * self.limit  # an idle queue takes what it has room for
        else:
            self.came += [(task, row, self.now) for row in range(rows)]

    @rule(seconds=st.integers(0, 3))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        ready = self.came and self.queue.ready_at <= self.now
        batch = self.queue.take(self.now)
        assert (batch is not None) == bool(ready)
        if batch is None:
            return
        rows = [(piece.task, row) for piece in batch.pieces for row in range(piece.start, piece.stop)]
        assert rows == [(task, row) for task, row, _ in self.came[: len(rows)]]
        assert 0 < len(rows) == batch.rows <= self.limit
        assert len({piece.task for piece in batch.pieces}) == len(batch.pieces)
        assert batch.opened_at == self.came[0][2]
        del self.came[: len(rows)]

    @invariant()
    def nothing_waits_longer_than_it_should(self) -> None:
        assert self.queue.is_empty == (not self.came)
        if self.came:
            assert self.queue.ready_at <= self.came[0][2] + self.timeout
            assert len(self.came) <= self.most * self.limit
        else:
            assert self.queue.ready_at == NEVER


TestAnyTraffic = AnyTraffic.TestCase
