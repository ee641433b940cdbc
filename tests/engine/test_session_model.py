from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.model import Model
from app.errors import ServingError
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
