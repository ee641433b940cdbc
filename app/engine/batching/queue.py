"""The scheduling rules of one queue: what it admits, which batch a task joins, when a batch is ready.

No threads and no clock: the scheduler holds a lock around every call and says what time it is. The
scheduler knows a queue by `add`, `take`, `ready_at`, `is_empty` and `run` only, so that a queue with
other rules can take this one's place.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from app.config.batching import BatchingParameters
from app.errors import Code, ServingError, invalid_argument

ALWAYS, NEVER = -math.inf, math.inf


class Sized(Protocol):
    """What a queue needs of a task."""

    @property
    def rows(self) -> int:
        """The size of its first dimension, at least 1."""


T = TypeVar("T", bound=Sized)


@dataclass(frozen=True, eq=False)
class Piece(Generic[T]):
    """Some rows of a task, in most cases all: those from `start` up to `stop`."""

    task: T
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start


@dataclass
class Batch(Generic[T]):
    """Pieces that run together.

    Attributes:
        pieces: in order of arrival; never two of one task.
        rows: their sum.
        opened_at: when the oldest one came; `NEVER` as long as there is none.
    """

    pieces: list[Piece[T]] = field(default_factory=list)
    rows: int = 0
    opened_at: float = NEVER


class Queue(Generic[T]):
    """TensorFlow Serving's queue: batches in order, of which the last one is open for more.

    Times are seconds on one monotonic clock.

    Attributes:
        run: what a thread does with a batch that it took.
    """

    def __init__(self, parameters: BatchingParameters, run: Callable[[Batch[T]], object]) -> None:
        """Begin with an empty open batch; `parameters` have been checked."""
        self.run = run
        self._most_rows = parameters.max_batch_size
        self._limit = parameters.batch_limit
        self._most_batches = max(1, parameters.max_enqueued_batches)
        self._timeout = parameters.batch_timeout_micros / 1e6
        self._splits = parameters.enable_large_batch_splitting
        self._batches: deque[Batch[T]] = deque([Batch()])

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._batches[0].pieces

    @property
    def ready_at(self) -> float:
        """From when on the next batch may be taken: `ALWAYS`, a time, or `NEVER` while nothing waits."""
        first = self._batches[0]
        if len(self._batches) > 1 or first.rows >= self._limit:
            return ALWAYS
        return first.opened_at + self._timeout

    def add(self, task: T, now: float) -> None:
        """Place `task`, which came `now`, at the end.

        Raises:
            ServingError: INVALID_ARGUMENT if it has too many rows, UNAVAILABLE if the queue is full.
        """
        if task.rows > self._most_rows:
            raise invalid_argument(
                f"Task size {task.rows} is larger than maximum input batch size {self._most_rows}"
            )
        self._check_room(task.rows)
        start = 0
        while start < task.rows:
            room = self._limit - self._batches[-1].rows
            left = task.rows - start
            if room < left and (room == 0 or not self._splits):
                self._batches.append(Batch())
                continue
            batch = self._batches[-1]
            piece = Piece(task, start, start + min(room, left))
            batch.pieces.append(piece)
            batch.rows += piece.rows
            batch.opened_at = min(batch.opened_at, now)
            start = piece.stop

    def take(self, now: float) -> Batch[T] | None:
        """Take the next batch out, if it is ready."""
        if self.is_empty or now < self.ready_at:
            return None
        batch = self._batches.popleft()
        if not self._batches:
            self._batches.append(Batch())
        return batch

    def _check_room(self, rows: int) -> None:
        waiting, most, last = len(self._batches), self._most_batches, self._batches[-1].rows
        full = "The batch scheduling queue to which this task was submitted is full; "
        if self._splits:
            capacity = (most - waiting) * self._limit + self._limit - last
            if rows > capacity:
                raise ServingError(
                    Code.UNAVAILABLE,
                    f"{full}task size is {rows} but scheduling capacity is only {capacity} "
                    f"(num_enqueued_batches={waiting}, max_enqueued_batches={most}, "
                    f"open_batch_size={last}, max_execution_batch_size={self._limit})",
                )
        elif last + rows > self._limit and waiting >= most:
            raise ServingError(
                Code.UNAVAILABLE,
                f"{full}currently {waiting} batches enqueued and max_enqueued_batches is {most}",
            )
