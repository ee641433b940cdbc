"""Batching without parameters: batches form only while the model is busy, and learn their size."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from app.config.batching import BatchingParameters
from app.engine.batching import merge
from app.engine.batching.execution import Executor, Task
from app.engine.batching.queue import NEVER, Batch, Piece
from app.engine.batching.sizes import BatchSizes
from app.engine.batching.threads import Threads
from app.engine.dtypes import Array
from app.engine.model import PLANS_KEPT, Model
from app.telemetry.serving_metrics import BatchingMetrics

# Below so many seconds a run costs less than handing it to another thread would.
_CHEAP = 100e-6
# Below so many seconds Python's own work for the requests takes longer than the run, and only one thread at a
# time does that: a second run beside the first would make batches smaller and gain nothing.
_SHORT = 1e-3
# For which part of the last run's time to wait for company; what is too short to sleep is not worth it, and
# whoever is to come has come after the longest.
_PATIENCE = 0.05
_SHORTEST_PATIENCE, _LONGEST_PATIENCE = 0.5e-3, 5e-3
# How much more the quickest run counts with each later one that was slower.
_FORGET = 1.02


class AdaptiveModel(Model):
    """Runs a request at once, in its own thread, unless as many run already as there is room for.

    Requests that find no room wait. Whoever finishes makes the next batch of them; threads that are there
    for it run it, or that of the request if it is alone. While requests share runs, those who would run
    with less company than the last ones wait a moment for it. Runs that cost
    less than the hand-over are never held up. Only tensors whose first dimension is declared open share
    batches, and only tasks that agree on it.
    """

    needs_alignment = False

    def __init__(
        self, model: Model, runs_at_a_time: int, latency_target: float, metrics: BatchingMetrics
    ) -> None:
        """Take over `model`.

        Args:
            model: safe for any number of threads.
            runs_at_a_time: for each set of inputs and outputs; at least 1.
            latency_target: seconds that a batch may run; 0 for no bound.
            metrics: filled as for TensorFlow Serving's batching.
        """
        super().__init__(model.signature_defs)
        self._model = model
        self._metrics = metrics
        executor = Executor(model, BatchingParameters(), metrics, rows_for_all=False)
        self._threads = Threads("ferry-batch")
        line = partial(
            _Line,
            executor=executor,
            threads=self._threads,
            runs_at_a_time=runs_at_a_time,
            latency_target=latency_target,
        )
        lines = lru_cache(maxsize=PLANS_KEPT)(line)
        # Not bound to self: a cycle would keep the version's memory until a collection.
        place = partial(_place, _open_tensors(self), threading.Lock(), lines)
        self._place = lru_cache(maxsize=PLANS_KEPT)(place)

    def call(
        self,
        feeds: tuple[str, ...],
        values: Sequence[Array],
        fetches: tuple[str, ...],
        deadline: float | None,
    ) -> list[Array]:
        """Run alone or in a batch.

        Raises:
            ServingError: the model's; RESOURCE_EXHAUSTED past the deadline.
        """
        line, ordered = self._place(feeds, fetches)
        rows = _rows(values) if line is not None else 0
        if line is None or not rows:
            return self._model.call(feeds, merge.aligned(values), fetches, deadline)
        if line.is_cheap:
            started = time.monotonic()
            try:
                return self._model.call(feeds, merge.aligned(values), fetches, deadline)
            finally:
                line.notice(time.monotonic() - started)
        for _ in values:
            self._metrics.input_batch_size.observe(rows)
        results = line.run(values, rows, NEVER if deadline is None else deadline)
        return merge.reordered(results, ordered, fetches)

    def close(self) -> None:
        """Close the model. Nothing waits any more: whoever waits pins the version."""
        self._threads.close()
        self._model.close()


class _Line:
    """Where the requests for one set of inputs and outputs wait while there is no room.

    Attributes:
        is_cheap: whether a run costs so little that none needs to wait.
    """

    def __init__(
        self,
        feeds: tuple[str, ...],
        fetches: tuple[str, ...],
        *,
        executor: Executor,
        threads: Threads,
        runs_at_a_time: int,
        latency_target: float,
    ) -> None:
        self._execute = partial(executor.execute, feeds, fetches)
        self._execute_alone = partial(executor.execute_alone, feeds, fetches)
        self._runs_at_a_time = max(1, runs_at_a_time)
        self._runs = 0
        self._lock = threading.Lock()
        self._sizes = BatchSizes(latency_target)
        self._waiting: deque[Task] = deque()
        self._rows_waiting = 0
        self._requests_running = 0
        self._rows_of_last = 0
        self._seconds_of_last = 0.0
        self._ended_at = 0.0
        self._patient: Task | None = None
        self._threads = threads
        self.is_cheap = False
        self._quickest = math.inf

    def run(self, values: Sequence[Array], rows: int, deadline: float) -> list[Array]:
        """Run now or wait, and answer."""
        with self._lock:
            alone = not self._waiting and self._has_room() and not self._patience(rows)
            if alone:
                self._runs += 1
                self._requests_running += 1
            else:
                task = Task(values, rows, deadline, self._lead, self._time_is_up)
                self._waiting.append(task)
                self._rows_waiting += rows
                self._begin_what_can()
        return self._run_alone(values, rows, deadline) if alone else task.result()

    def _run_alone(self, values: Sequence[Array], rows: int, deadline: float) -> list[Array]:
        """Run a request for which nobody waits and which waits for nobody: no batch is made."""
        started = time.monotonic()
        again: int | None = None  # what fails, or comes too late, tells nothing of a run's time
        try:
            outputs = self._execute_alone(values, deadline)
            again = 0
            return outputs
        finally:
            self._hand_on(rows, 1, time.monotonic() - started, again)

    def notice(self, seconds: float) -> None:
        """Judge whether runs are cheap, by the quickest of the last ones: others waited for the GIL."""
        self._quickest = min(self._quickest * _FORGET, seconds)
        self.is_cheap = self._quickest < _CHEAP

    def _lead(self, batch: Batch[Task], done: Callable[[], None] = lambda: None) -> None:
        """Run `batch` for all that are in it, say that it is `done`, then hand on."""
        started = time.monotonic()
        again: int | None = None
        try:
            again = self._execute(batch)
        finally:
            done()
            self._hand_on(batch.rows, len(batch.pieces), time.monotonic() - started, again)

    def _hand_on(self, rows: int, requests: int, seconds: float, again: int | None) -> None:
        """Learn from a batch that is done, make room, and begin the next."""
        with self._lock:
            if again == 0:
                self._sizes.record(rows, seconds)
                self.notice(seconds)
            elif again:
                self._sizes.record_failure()
            self._runs -= 1
            self._requests_running -= requests
            self._rows_of_last = rows if requests > 1 else 0
            self._seconds_of_last, self._ended_at = seconds, time.monotonic()
            self._begin_what_can()

    def _time_is_up(self, task: Task) -> None:
        """Begin without the company that `task` has waited for."""
        with self._lock:
            if self._patient is task:
                self._begin_what_can(impatient=True)

    def _begin_what_can(self, *, impatient: bool = False) -> None:
        """Have those who wait run, as long as there is room; the lock is held."""
        while self._waiting and self._has_room():
            patience = 0.0 if impatient else self._patience(self._rows_waiting)
            if patience:
                if self._patient is None:
                    self._patient = self._waiting[0]
                    self._patient.wait_for_company(patience)
                return
            impatient, self._patient = False, None
            batch = self._next_batch()
            self._runs += 1
            self._requests_running += len(batch.pieces)
            self._assign(batch)

    def _assign(self, batch: Batch[Task]) -> None:
        """Have a thread run `batch`: that of its request, or one that is there for batches; the lock is held.

        One for batches has seen their size before, and finds the next when it is done: the thread of a
        request would have to be woken, which takes long beside a short run.
        """
        first = batch.pieces[0].task
        if len(batch.pieces) == 1 or not self._threads.run(partial(self._lead, batch, self._threads.free)):
            first.lead(batch)

    def _has_room(self) -> bool:
        return self._runs < (1 if self._quickest < _SHORT else self._runs_at_a_time)

    def _next_batch(self) -> Batch[Task]:
        tasks = [self._waiting.popleft()]
        left = self._sizes.limit - tasks[0].rows
        while self._waiting and self._waiting[0].rows <= left:
            left -= self._waiting[0].rows
            tasks.append(self._waiting.popleft())
        batch = _batch(tasks)
        self._rows_waiting -= batch.rows
        return batch

    def _patience(self, rows: int) -> float:
        """For how many seconds `rows` rows that wait should wait for company although there is room.

        Clients that were answered together come back together. Were the first one to run alone, the others
        would have to wait for the end of its run or of another. Nobody waits for company unless requests
        share a run just now, or did so a moment ago: an idle model answers at once.
        """
        if rows >= min(self._rows_of_last, self._sizes.limit):
            return 0.0
        patience = min(self._seconds_of_last * _PATIENCE, _LONGEST_PATIENCE)
        if patience < _SHORTEST_PATIENCE:
            return 0.0
        is_shared = self._requests_running > self._runs
        return patience if is_shared or time.monotonic() < self._ended_at + patience else 0.0


def _place(
    open_tensors: frozenset[str],
    lock: threading.Lock,
    lines: Callable[[tuple[str, ...], tuple[str, ...]], _Line],
    feeds: tuple[str, ...],
    fetches: tuple[str, ...],
) -> tuple[_Line | None, tuple[str, ...]]:
    """Where requests with these inputs and outputs wait, None for nowhere; and the order of outputs there."""
    ordered = tuple(sorted(fetches))
    if not feeds or not open_tensors.issuperset((*feeds, *fetches)):
        return None, ordered
    with lock:  # two threads must not make a line each
        return lines(feeds, ordered), ordered


def _rows(values: Sequence[Array]) -> int:
    """How many rows a request brings into a batch; 0 if it has to run by itself."""
    first = values[0]
    if not first.ndim:
        return 0
    rows = len(first)
    return rows if all(value.ndim and len(value) == rows for value in values[1:]) else 0


def _batch(tasks: Sequence[Task]) -> Batch[Task]:
    pieces = [Piece(task, 0, task.rows) for task in tasks]
    return Batch(pieces, sum(task.rows for task in tasks))


def _open_tensors(model: Model) -> frozenset[str]:
    """The tensors whose first dimension every signature that has them leaves open."""
    specs = [
        spec
        for signature in model.signatures.values()
        for spec in (*signature.inputs.values(), *signature.outputs.values())
    ]
    fixed = {spec.tensor for spec in specs if not spec.shape or spec.shape[0] != -1}
    return frozenset(spec.tensor for spec in specs) - fixed
