from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine import savedmodel
from app.engine.model import Model
from app.engine.session_config import session_config
from app.errors import ServingError
from app.options import Options
from app.telemetry.instruments import Distribution
from app.telemetry.metrics import Registry
from app.telemetry.serving_metrics import TensorFlowMetrics
from tests.engine.conftest import load


def run(model: Model, inputs: dict[str, Any]) -> dict[str, Any]:
    return model.run(model.signatures["serving_default"], inputs)


def test_a_closed_model_does_not_run(half_plus_two: Path) -> None:
    model = load(half_plus_two / "1")
    run(model, {"x": np.array([1], np.float32)})
    model.close()
    with pytest.raises((ServingError, RuntimeError)):
        run(model, {"x": np.array([1], np.float32)})


def test_a_closed_model_is_freed_at_once_without_a_collection(half_plus_two: Path) -> None:
    model = load(half_plus_two / "1")
    run(model, {"x": np.array([1], np.float32)})
    model.close()
    freed = weakref.ref(model)
    del model
    assert freed() is None


@pytest.mark.parametrize("size", [1, 3, 100_000])
def test_numbers_may_stand_anywhere_in_memory(half_plus_two: Path, size: int) -> None:
    model = load(half_plus_two / "1")
    assert not model.needs_alignment
    numbers = np.arange(size, dtype=np.float32)
    for offset in range(9):
        message = bytes(offset) + numbers.tobytes()
        x = np.ndarray((size,), np.float32, message, offset)
        assert np.array_equal(run(model, {"x": x})["y"], numbers / 2 + 2)
    model.close()


def test_runs_and_the_graphs_made_for_them_are_counted(half_plus_two: Path) -> None:
    registry = Registry()
    metrics = TensorFlowMetrics.make(registry)
    path = str(half_plus_two / "1")
    model = savedmodel.load(path, ["serve"], session_config(Options()), metrics=metrics)
    x = np.array([1], np.float32)
    for _ in range(3):
        run(model, {"x": x})
    with pytest.raises(ServingError):
        run(model, {"x": np.array([1], np.int64)})
    ((_, found),) = metrics.run_micros.cells()
    assert isinstance(found, Distribution)
    assert sum(found.counts) == 3
    assert found.sum > 0
    assert metrics.graph_builds.cells() == [((), 1)]
    assert registry.first_value("/tensorflow/core/graph_build_time_usecs") > 0
    assert registry.first_value("/tensorflow/core/graph_runs") == 3
    model.close()
