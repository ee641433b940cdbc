"""Inputs with which TensorFlow would end this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.model import Model
from app.engine.session_model import SessionModel
from app.errors import Code, ServingError
from tests.engine.conftest import load
from tests.support import models

FILTERS = np.ones([3, 3, 2, 4], np.float32)


def save(path: Path, network: Any, shape: list[int | None] | None) -> Path:
    tf = models.tensorflow()
    module = tf.Module()
    module.filters = tf.Variable(FILTERS)
    module.function = tf.function(
        lambda x: {"y": tf.nn.conv2d(network(tf, x), module.filters, 1, "SAME")},
        input_signature=[tf.TensorSpec(shape, tf.float32, name="x")],
        autograph=False,
    )
    return models.save(module, path, module.function)


def run(model: Model, *shape: int) -> tuple[int, ...]:
    result = model.run(model.signatures["serving_default"], {"x": np.ones(shape, np.float32)})
    return result["y"].shape


@pytest.mark.parametrize("declared", [[None, 5, 5, 2], None])
def test_what_a_convolution_cannot_take(tmp_path: Path, declared: list[int | None] | None) -> None:
    model = load(save(tmp_path / "1", lambda _, x: x, declared))
    for shape in ((), (5,), (5, 5, 2), (1, 1, 5, 5, 2)):
        with pytest.raises(ServingError) as refused:
            run(model, *shape)
        assert refused.value.code is Code.INVALID_ARGUMENT
        start = f"The model cannot take inputs of these shapes: x {list(shape)}. Shape must be rank 4 but is"
        assert refused.value.message.startswith(f"{start} rank {len(shape)} for '")
        assert refused.value.message.endswith("}}'")
    assert run(model, 3, 5, 5, 2) == (3, 5, 5, 4)


def test_other_dimensions_that_the_model_brings_into_shape(tmp_path: Path) -> None:
    model = load(save(tmp_path / "1", lambda tf, x: tf.reshape(x, [-1, 5, 5, 2]), [None, 50]))
    assert run(model, 3, 50) == run(model, 3, 5, 5, 2) == run(model, 150) == (3, 5, 5, 4)


def test_inferred_once_for_all_shapes_of_a_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(save(tmp_path / "1", lambda tf, x: tf.reshape(x, [-1, 5, 5, 2]), [None, 50]))
    assert isinstance(model, SessionModel)
    run(model, 50)
    monkeypatch.setattr(type(model.session.graph), "as_graph_def", None)
    assert run(model, 100) == (2, 5, 5, 4)


def test_a_model_without_convolutions_has_no_guard(tmp_path: Path) -> None:
    model = load(models.save_half_plus(tmp_path / "1"))
    assert isinstance(model, SessionModel)
    assert model._guard is None
