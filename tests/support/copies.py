"""Shows what becomes of arrays on their way into a batch and out of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from app.config.batching import BatchingParameters
from app.engine.batching.model import BatchedModel
from app.engine.batching.scheduler import Scheduler
from app.engine.dtypes import Array
from app.engine.model import Model
from app.lifecycle.manager import Manager
from app.lifecycle.states import State, StateBoard
from app.telemetry.metrics import Registry
from app.telemetry.serving_metrics import BatchingMetrics

SECONDS = 60.0


class Watched(Model):
    """A model with every array that came and went."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.signature_defs)
        self._model = model
        self.needs_alignment = model.needs_alignment
        self.came: list[Sequence[Array]] = []
        self.went: list[Sequence[Array]] = []

    def call(
        self,
        feeds: tuple[str, ...],
        values: Sequence[Array],
        fetches: tuple[str, ...],
        deadline: float | None,
    ) -> list[Array]:
        self.came.append(values)
        results = self._model.call(feeds, values, fetches, deadline)
        self.went.append(results)
        return results

    def check(self, *arguments: Any) -> None:
        self._model.check(*arguments)

    def close(self) -> None:
        self._model.close()


class Pipe:
    """One model under any name, which lets two requests of `rows` rows each meet in one batch.

    Attributes:
        outer: what comes from the API and goes back to it.
        inner: what the model takes and gives.
    """

    def __init__(self, model: Model, scheduler: Scheduler, name: str, rows: int) -> None:
        metrics = BatchingMetrics.make(Registry())
        parameters = BatchingParameters(max_batch_size=2 * rows, batch_timeout_micros=10**9)
        self.inner = Watched(model)
        self.outer = Watched(BatchedModel(self.inner, parameters, scheduler, metrics))
        self.board = StateBoard()
        self.manager: Manager[Model] = Manager(lambda *_: self.outer, self.board)
        self.manager.labels.replace({})
        self.manager.start()
        self.manager.set_aspired(name, {1: "nowhere"})
        loaded = lambda: any(s.state is State.AVAILABLE for s in self.board.versions(name))  # noqa: E731
        assert self.board.wait(loaded, time.monotonic() + SECONDS)

    def check(self, sources: Sequence[Array] | None = None) -> None:
        """Assert that two requests were copied once, to one batch, and that their answers are views of its.

        Args:
            sources: the memory that the requests were read from, if there is to be no copy before.
        """
        ((batch, *_),) = self.inner.came
        ((output, *_),) = self.inner.went
        assert len(self.outer.came) == len(self.outer.went) == 2
        assert batch.ctypes.data % 64 == 0, "TensorFlow takes it as it is"
        for (value, *_), (result, *_) in zip(self.outer.came, self.outer.went, strict=True):
            assert not np.shares_memory(value, batch)
            assert result.base is not None
            assert np.shares_memory(result, output)
            if sources is not None:
                assert any(np.shares_memory(value, source) for source in sources)


@contextmanager
def pipe(model: Model, name: str, rows: int) -> Iterator[Pipe]:
    """A pipe that ends with the test; `model` is closed."""
    scheduler = Scheduler(1, "test-copies")
    scheduler.start()
    made = Pipe(model, scheduler, name, rows)
    yield made
    made.manager.stop()
    scheduler.stop()


def both(call: Any, *arguments: Any) -> list[Any]:
    """Call with each argument, at the same time."""
    with ThreadPoolExecutor(len(arguments)) as pool:
        return [future.result(SECONDS) for future in [pool.submit(call, each) for each in arguments]]
