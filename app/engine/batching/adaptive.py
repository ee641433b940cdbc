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
from app.engine.dtypes import Array
from app.engine.model import PLANS_KEPT, Model
from app.telemetry.serving_metrics import BatchingMetrics

# Below so many seconds a run costs less than handing it to another thread would.
_CHEAP = 100e-6
# How much more the quickest run counts with each later one that was slower.
_FORGET = 1.02


class AdaptiveModel(Model):
    """Runs a request at once, in its own thread, unless as many run already as there is room for.

    Requests that find no room wait. Whoever finishes picks the next batch from them and hands it to the
    thread of its first request, which runs it for all: there are no other threads. Runs that cost less
    than the hand-over are never held up. Only tensors whose first dimension is declared open share
    batches, and only tasks that agree on it.
    """

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
        self._open = _open_tensors(self)
        executor = Executor(model, BatchingParameters(), metrics, rows_for_all=False)
        self._line_lock = threading.Lock()
        self._line = lru_cache(maxsize=PLANS_KEPT)(partial(_Line, executor, runs_at_a_time, latency_target))

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
        rows = self._rows(feeds, values, fetches)
        if not rows:
            return self._model.call(feeds, values, fetches, deadline)
        ordered = tuple(sorted(fetches))
        with self._line_lock:  # two threads must not make a line each
            line = self._line(feeds, ordered)
        if line.is_cheap:
            return line.run_cheap(partial(self._model.call, feeds, values, fetches, deadline))
        for _ in values:
            self._metrics.input_batch_size.observe(rows)
        results = line.run(values, rows, NEVER if deadline is None else deadline)
        return merge.reordered(results, ordered, fetches)

    def _rows(self, feeds: tuple[str, ...], values: Sequence[Array], fetches: tuple[str, ...]) -> int:
        """How many rows a request brings into a batch; 0 if it has to run by itself."""
        if not values or not self._open.issuperset(feeds) or not self._open.issuperset(fetches):
            return 0
        counts = {len(value) if value.ndim else 0 for value in values}
        return counts.pop() if len(counts) == 1 else 0

    def close(self) -> None:
        """Close the model. Nothing waits any more: whoever waits pins the version."""
        self._model.close()


class _Line:
    """Where the requests for one set of inputs and outputs wait while there is no room.

    Attributes:
        is_cheap: whether a run costs so little that none needs to wait.
    """

    def __init__(
        self,
        executor: Executor,
        runs_at_a_time: int,
        latency_target: float,
        feeds: tuple[str, ...],
        fetches: tuple[str, ...],
    ) -> None:
        self._executor = executor
        self._execute = partial(executor.execute, feeds, fetches)
        self._room = max(1, runs_at_a_time)
        self._lock = threading.Lock()
        self._sizes = BatchSizes(latency_target)
        self._waiting: deque[Task] = deque()
        self.is_cheap = False
        self._quickest = math.inf

    def run(self, values: Sequence[Array], rows: int, deadline: float) -> list[Array]:
        """Run now or wait, and answer."""
        task = Task(values, rows, deadline, self._lead)
        with self._lock:
            if self._room and not self._waiting:
                self._room -= 1
                batch = _batch([task])
            else:
                self._waiting.append(task)
                batch = None
        if batch is not None:
            self._lead(batch)
        return task.result()

    def run_cheap(self, call: Callable[[], list[Array]]) -> list[Array]:
        """Run in the calling thread, and notice if that is not cheap any more."""
        started = time.monotonic()
        try:
            return call()
        finally:
            self._notice(time.monotonic() - started)

    def _notice(self, seconds: float) -> None:
        """Judge whether runs are cheap, by the quickest of the last ones: others waited for the GIL."""
        self._quickest = min(self._quickest * _FORGET, seconds)
        self.is_cheap = self._quickest < _CHEAP

    def _lead(self, batch: Batch[Task]) -> None:
        """Run `batch` for all that are in it, then hand on."""
        started = time.monotonic()
        again: int | None = None
        try:
            again = self._execute(batch)
        finally:
            self._hand_on(batch.rows, time.monotonic() - started, again)

    def _hand_on(self, rows: int, seconds: float, again: int | None) -> None:
        """Learn from a batch that is done, and begin the next or make room."""
        with self._lock:
            if again == 0:
                self._sizes.record(rows, seconds)
                self._notice(seconds)
            elif again:
                self._sizes.record_failure()
            if not self._waiting:
                self._room += 1
                return
            tasks = [self._waiting.popleft()]
            left = self._sizes.limit - tasks[0].rows
            while self._waiting and self._waiting[0].rows <= left:
                left -= self._waiting[0].rows
                tasks.append(self._waiting.popleft())
        tasks[0].lead(_batch(tasks))


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
