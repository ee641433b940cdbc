"""A model whose requests run in batches."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache, partial

from app.config.batching import BatchingParameters
from app.engine.batching import merge
from app.engine.batching.execution import Executor, Task
from app.engine.batching.queue import NEVER, Queue
from app.engine.batching.scheduler import Scheduler
from app.engine.dtypes import Array
from app.engine.model import PLANS_KEPT, Model
from app.engine.signature import TensorSpec
from app.telemetry.serving_metrics import BatchingMetrics


class BatchedModel(Model):
    """Lets any model's runs wait for each other in queues, one for each set of inputs and of outputs.

    Inputs must have a first dimension, the same for all; a request without rows does not wait. A call
    returns once its batch has run: whoever pins the version keeps it until then.
    """

    needs_alignment = False

    def __init__(
        self,
        model: Model,
        parameters: BatchingParameters,
        scheduler: Scheduler,
        metrics: BatchingMetrics,
    ) -> None:
        """Take over `model`; its batches run in the threads of `scheduler`. `parameters` are checked."""
        super().__init__(model.signature_defs)
        self._model = model
        self._scheduler = scheduler
        self._metrics = metrics
        self._pad = parameters.pad_variable_length_inputs
        self._executor = Executor(model, parameters, metrics)
        # Bounded, as clients choose the outputs. A queue that is dropped while tasks wait in it is
        # still emptied by the scheduler.
        self._queue_lock = threading.Lock()
        self._queue = lru_cache(maxsize=PLANS_KEPT)(partial(_make_queue, parameters, self._executor))

    def check(self, feeds: tuple[TensorSpec, ...], values: Sequence[Array]) -> None:
        """Refuse what cannot be batched, then other element types than declared: INVALID_ARGUMENT."""
        merge.rows_of(values, pad=self._pad)
        super().check(feeds, values)

    def call(
        self,
        feeds: tuple[str, ...],
        values: Sequence[Array],
        fetches: tuple[str, ...],
        deadline: float | None,
    ) -> list[Array]:
        """Join a batch and wait until it has run.

        Raises:
            ServingError: UNAVAILABLE if the queue is full, INVALID_ARGUMENT for too many rows,
                RESOURCE_EXHAUSTED if the whole batch waited past its deadlines, FAILED_PRECONDITION for
                outputs that are not made of the batch's rows, or the model's own.
        """
        rows = len(values[0])
        for _ in values:
            self._metrics.input_batch_size.observe(rows)
        ordered = tuple(sorted(fetches))
        if rows == 0:
            results = self._executor.run_alone(feeds, ordered, values)
        else:
            task = Task(values, rows, NEVER if deadline is None else deadline)
            with self._queue_lock:  # two threads must not make a queue each
                queue = self._queue(feeds, ordered)
            self._scheduler.submit(queue, task)
            results = task.result()
        return merge.reordered(results, ordered, fetches)

    def close(self) -> None:
        """Close the model. Nothing waits any more: whoever waits pins the version."""
        self._model.close()


def _make_queue(
    parameters: BatchingParameters, executor: Executor, feeds: tuple[str, ...], fetches: tuple[str, ...]
) -> Queue[Task]:
    return Queue(parameters, partial(executor.execute, feeds, fetches))
