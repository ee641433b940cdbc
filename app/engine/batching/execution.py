"""What becomes of a batch: it is merged, run and split, and every task gets its own rows or its own error."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue

import numpy as np

from app.config.batching import BatchingParameters
from app.engine.batching import merge
from app.engine.batching.queue import Batch, Piece
from app.engine.dtypes import Array
from app.engine.model import Model
from app.errors import Code, ServingError, without_traceback
from app.telemetry.observation import note_queue
from app.telemetry.serving_metrics import BatchingMetrics

Outcome = list[Array] | ServingError

logger = logging.getLogger(__name__)


def _nobody_leads(batch: Batch[Task]) -> None:
    raise AssertionError(f"a batch of {batch.rows} rows came to a task that cannot run it")


def _nobody_waits(task: Task) -> None:
    raise AssertionError(f"a task of {task.rows} rows was told to wait for company")


class Task:
    """A request's part in batches: one batch, or several if it is cut.

    Attributes:
        values: an array for each input, all with `rows` rows.
        rows: how many.
        deadline: on `time.monotonic`; infinite if there is none.
        created_at: when it came, likewise.
        taken_at: when its first batch began, likewise; 0 before.
    """

    __slots__ = ("_lead", "_outcomes", "_time_is_up", "created_at", "deadline", "rows", "taken_at", "values")

    def __init__(
        self,
        values: Sequence[Array],
        rows: int,
        deadline: float,
        lead: Callable[[Batch[Task]], None] = _nobody_leads,
        time_is_up: Callable[[Task], None] = _nobody_waits,
    ) -> None:
        """A task that comes now.

        Args:
            values: see above, as `rows` and `deadline`.
            rows: how many.
            deadline: on `time.monotonic`.
            lead: runs a batch that the task's own thread is told to run.
            time_is_up: called with it in that thread when it has waited long enough for company.
        """
        self._lead = lead
        self._time_is_up = time_is_up
        self.values = values
        self.rows = rows
        self.deadline = deadline
        self.created_at = time.monotonic()
        self.taken_at = 0.0
        self._outcomes: SimpleQueue[tuple[int, int, Outcome] | Batch[Task] | float] = SimpleQueue()

    def answer(self, piece: Piece[Task], outcome: Outcome) -> None:
        """Say what became of a piece; once for each, from any thread."""
        self._outcomes.put((piece.start, piece.rows, outcome))

    def lead(self, batch: Batch[Task]) -> None:
        """Have the thread that waits for the result run `batch` first; called in any thread."""
        self._outcomes.put(batch)

    def wait_for_company(self, seconds: float) -> None:
        """Have the thread that waits for the result wait so long at most for its next news."""
        self._outcomes.put(seconds)

    def result(self) -> list[Array]:
        """Wait for the outcome of every piece, and put the outputs together.

        Raises:
            ServingError: the first error of any piece.
        """
        parts: list[tuple[int, list[Array]]] = []
        error: ServingError | None = None
        left = self.rows
        patience: float | None = None
        while left:
            try:
                told = self._outcomes.get(timeout=patience)
            except Empty:
                patience = None
                self._time_is_up(self)
                continue
            patience = told if isinstance(told, float) else None
            if isinstance(told, float):
                continue
            if isinstance(told, Batch):
                self._lead(told)
                continue
            start, rows, outcome = told
            left -= rows
            if not isinstance(outcome, ServingError):
                parts.append((start, outcome))
            elif error is None:
                error = outcome
        note_queue(self.created_at, self.taken_at)
        if error is not None:
            # A new one: an error that a frame of its own traceback holds would keep the model alive.
            raise ServingError(error.code, error.message)
        if len(parts) == 1:
            return parts[0][1]
        ordered = [outputs for _, outputs in sorted(parts, key=lambda part: part[0])]
        return [_join(pieces) for pieces in zip(*ordered, strict=True)]


def _join(pieces: Sequence[Array]) -> Array:
    """The rows of an output whose task was cut."""
    try:
        return np.concatenate(pieces)
    except ValueError:
        shapes = ", ".join(str(list(piece.shape)) for piece in pieces)
        raise ServingError(
            Code.FAILED_PRECONDITION,
            f"The request was split into batches whose outputs do not fit together: their shapes are "
            f"{shapes}. Send fewer rows at a time.",
        ) from None


class Executor:
    """Runs the batches of one model. Safe for any number of threads."""

    def __init__(
        self,
        model: Model,
        parameters: BatchingParameters,
        metrics: BatchingMetrics,
        *,
        rows_for_all: bool = True,
    ) -> None:
        """Run `model` as `parameters` say and count in `metrics`.

        Without `rows_for_all` a task that runs alone may have outputs that are not made of its rows.
        """
        self._model = model
        self._rows_for_all = rows_for_all
        self._allowed = parameters.allowed_batch_sizes
        self._pad = parameters.pad_variable_length_inputs
        self._metrics = metrics

    def execute(self, feeds: tuple[str, ...], fetches: tuple[str, ...], batch: Batch[Task]) -> int | None:
        """Run `batch` and answer each of its pieces, whatever happens.

        Pieces that cannot be merged run one group after the other. Where a group fails, its pieces
        run once more, each alone, so that none fails for the sake of another.

        Args:
            feeds: the names of the tensors that the tasks' values are for.
            fetches: the names of the tensors to compute.
            batch: tasks whose values have the types of `feeds`.

        Returns:
            How many groups had to be run again singly; None if nothing was run.
        """
        again: int | None = None
        unanswered = dict.fromkeys(batch.pieces)
        try:
            if self._all_expired(batch):
                raise _expired()
            again = 0
            for group in self._groups(batch.pieces):
                outcomes = self._run_group(feeds, fetches, group)
                again += outcomes is None
                for piece, outcome in outcomes or self._run_singly(feeds, fetches, group):
                    del unanswered[piece]
                    piece.task.answer(piece, outcome)
        except BaseException as error:
            for piece in unanswered:
                piece.task.answer(piece, _told(error))
        return again

    def execute_alone(
        self, feeds: tuple[str, ...], fetches: tuple[str, ...], values: Sequence[Array], deadline: float
    ) -> list[Array]:
        """Run what came this moment as a batch of its own, in the calling thread.

        Raises:
            ServingError: the model's error; RESOURCE_EXHAUSTED past the deadline.
        """
        now = time.monotonic()
        self._metrics.queuing_micros.observe(0, "")
        note_queue(now, now)
        if deadline <= now:
            raise _expired()
        (outputs,) = self._run(feeds, fetches, [values], len(values[0]), deadline)
        return outputs

    def run_alone(
        self, feeds: tuple[str, ...], fetches: tuple[str, ...], values: Sequence[Array]
    ) -> list[Array]:
        """Run one task in the calling thread, without padding: how a task without rows runs.

        Raises:
            ServingError: the model's error, or that of an output that has rows.
        """
        (outputs,) = self._run(feeds, fetches, [values], len(values[0]), None)
        return outputs

    def _all_expired(self, batch: Batch[Task]) -> int | None:
        now = time.monotonic()
        for piece in batch.pieces:
            self._metrics.queuing_micros.observe(int((now - piece.task.created_at) * 1e6), "")
            piece.task.taken_at = piece.task.taken_at or now
        return all(piece.task.deadline <= now for piece in batch.pieces)

    def _groups(self, pieces: Sequence[Piece[Task]]) -> list[list[Piece[Task]]]:
        """The pieces that can be merged with each other, in order of arrival."""
        if len(pieces) == 1:
            return [list(pieces)]
        groups: dict[object, list[Piece[Task]]] = {}
        for piece in pieces:
            groups.setdefault(merge.family(piece.task.values, pad=self._pad), []).append(piece)
        return list(groups.values())

    def _run_group(
        self, feeds: tuple[str, ...], fetches: tuple[str, ...], group: list[Piece[Task]]
    ) -> list[tuple[Piece[Task], Outcome]] | None:
        """Run pieces as one; None if that fails and they can be run singly."""
        values = [_values(piece) for piece in group]
        size = merge.target_size(sum(piece.rows for piece in group), self._allowed)
        deadline = max(piece.task.deadline for piece in group)
        try:
            return list(zip(group, self._run(feeds, fetches, values, size, deadline), strict=True))
        except Exception as error:
            return [(group[0], _told(error))] if len(group) == 1 else None

    def _run_singly(
        self, feeds: tuple[str, ...], fetches: tuple[str, ...], group: list[Piece[Task]]
    ) -> Iterator[tuple[Piece[Task], Outcome]]:
        for piece in group:
            yield from self._run_group(feeds, fetches, [piece]) or ()

    def _run(
        self,
        feeds: tuple[str, ...],
        fetches: tuple[str, ...],
        tasks: Sequence[Sequence[Array]],
        size: int,
        deadline: float | None,
    ) -> list[list[Array]]:
        counts = [len(values[0]) for values in tasks]
        inputs = merge.merge(tasks, size)
        self._metrics.processed_batch_size.observe(size)
        self._metrics.padding_size.observe(size - sum(counts), str(size))
        self._metrics.wrapped_runs.increment()
        outputs = self._model.call(feeds, inputs, fetches, deadline)
        if len(tasks) == 1 and size == counts[0] and not self._rows_for_all:
            return [outputs]
        return merge.split(outputs, counts, size)


def _values(piece: Piece[Task]) -> Sequence[Array]:
    if piece.rows == piece.task.rows:
        return piece.task.values
    return [value[piece.start : piece.stop] for value in piece.task.values]


def _expired() -> ServingError:
    return ServingError(Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue")


def _told(error: BaseException) -> ServingError:
    """`error` as one for a single task: each raises its own, in its own thread."""
    if not isinstance(error, ServingError):
        logger.error("A batch ended in an unexpected error", exc_info=error)
    return without_traceback(error)
