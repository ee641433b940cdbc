"""What the tests of batching run: a model that tells which batch a row was in, and a pool of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.config.batching import BatchingParameters
from app.engine.batching.model import BatchedModel
from app.engine.batching.scheduler import Scheduler
from app.engine.model import Model
from app.telemetry.instruments import Distribution, Histogram
from app.telemetry.metrics import Registry
from app.telemetry.serving_metrics import BatchingMetrics
from tests.engine.conftest import load
from tests.support import models
from tests.support.process import wait_until

POOL = "ferry-test-batch"

Batched = Callable[..., BatchedModel]


@pytest.fixture(scope="session")
def probe_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version directory with the model of `save_batch_probe`. Not to be changed by a test."""
    return models.save_batch_probe(tmp_path_factory.mktemp("probe") / "1")


@pytest.fixture(scope="session")
def probe(probe_path: Path) -> Iterator[Model]:
    """That model, without batching."""
    model = load(probe_path)
    yield model
    model.close()


@pytest.fixture
def metrics() -> BatchingMetrics:
    """Metrics of nobody else."""
    return BatchingMetrics.make(Registry())


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    """Two threads, which end with the test."""
    made = Scheduler(2, POOL)
    made.start()
    yield made
    made.stop()
    wait_until(lambda: POOL not in "".join(thread.name for thread in threading.enumerate()), "threads end")


@pytest.fixture
def batched(probe: Model, scheduler: Scheduler, metrics: BatchingMetrics) -> Batched:
    """The model with batching, by the parameters given."""

    def make(**parameters: Any) -> BatchedModel:
        checked = BatchingParameters(**parameters)
        checked.check_queues()
        return BatchedModel(probe, checked, scheduler, metrics)

    return make


def observed(histogram: Histogram) -> dict[tuple[str, ...], tuple[int, float]]:
    """How many values a histogram has, and their sum, by labels."""
    return {
        labels: (sum(found.counts), found.sum)
        for labels, found in histogram.cells()
        if isinstance(found, Distribution)
    }
