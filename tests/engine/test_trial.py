from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from app.engine.budget import Budget, KeepOriginalError
from app.engine.dtypes import from_number
from app.engine.model import Model
from app.engine.session_model import SessionModel
from app.engine.signature import Signature, TensorSpec
from app.engine.trial import Trial, keeps_rows
from app.errors import Code, ServingError
from tests.engine.conftest import load
from tests.support import models

FLOAT = from_number(tf.float32.as_datatype_enum)


@pytest.fixture
def original(tmp_path: Path) -> Model:
    return load(models.save_half_plus(tmp_path / "original" / "1"))


def make_trial(original: Model) -> Trial:
    return Trial(original, [original.signatures["serving_default"]])


def test_equal_answers(original: Model) -> None:
    trial = make_trial(original)
    assert trial.first_seconds > 0
    assert trial.compare(original, Budget(1000)) == (0.0, 1.0)
    gains = trial.gains(original, Budget(1000))
    assert list(gains) == ["serving_default at batch 1"]
    assert all(gain > 0 for gain in gains.values())


def test_other_answers(original: Model, tmp_path: Path) -> None:
    other = load(models.save_half_plus(tmp_path / "other" / "1", 2.01))
    with pytest.raises(KeepOriginalError, match=r"output y of serving_default would differ by 0\.00"):
        make_trial(original).compare(other, Budget(1000))
    error, _ = make_trial(original).compare(other, Budget(1000), lossy=True)
    assert 0.001 < error < 0.01


def test_a_fast_model_that_fails(original: Model) -> None:
    class Failing(SessionModel):
        def call(self, *_: Any) -> Any:
            raise ServingError(Code.INTERNAL, "no such kernel\nand more")

    assert isinstance(original, SessionModel)
    failing = Failing(original.session, original.signature_defs)
    with pytest.raises(KeepOriginalError, match=r"the fast one fails: .*no such kernel$"):
        make_trial(original).compare(failing, Budget(1000))


def test_a_fast_model_that_answers_one_row_of_a_batch(original: Model) -> None:
    class OneRow(SessionModel):
        def call(self, *arguments: Any) -> Any:
            return [value[:1] for value in super().call(*arguments)]

    assert isinstance(original, SessionModel)
    one_row = OneRow(original.session, original.signature_defs)
    with pytest.raises(KeepOriginalError, match=r"output y of serving_default would differ by inf"):
        make_trial(original).compare(one_row, Budget(1000))


def test_no_input_that_it_takes(tmp_path: Path) -> None:
    tf = models.tensorflow()
    module = tf.Module()
    module.function = tf.function(
        lambda x: {"y": tf.ensure_shape(x, [7])},
        input_signature=[tf.TensorSpec([None], tf.float32, name="x")],
    )
    model = load(models.save(module, tmp_path / "1", module.function))
    with pytest.raises(KeepOriginalError, match="signature serving_default takes no made-up input"):
        Trial(model, [model.signatures["serving_default"]])
    value = np.zeros(7, np.float32)
    assert model.run(model.signatures["serving_default"], {"x": value})["y"].shape == (7,)


def test_a_model_that_takes_two_rows_only(tmp_path: Path) -> None:
    tf = models.tensorflow()
    module = tf.Module()
    module.function = tf.function(
        lambda x: {"y": tf.ensure_shape(x, [2])},
        input_signature=[tf.TensorSpec([None], tf.float32, name="x")],
    )
    model = load(models.save(module, tmp_path / "1", module.function))
    trial = Trial(model, [model.signatures["serving_default"]])
    assert list(trial.gains(model, Budget(1000))) == ["serving_default at batch 2"]


def test_a_spent_budget(original: Model) -> None:
    now = 0.0
    budget = Budget(1.0, lambda: now)
    trial = make_trial(original)
    now = 2.0
    with pytest.raises(KeepOriginalError, match="no time to compare answers"):
        trial.compare(original, budget)
    trial.compare(original, Budget(1000))
    with pytest.raises(KeepOriginalError, match="no time to measure"):
        trial.gains(original, budget)


def test_rows_known_to_be_kept_are_not_tried(original: Model) -> None:
    sizes: list[int] = []

    class Counting(SessionModel):
        def call(self, *arguments: Any) -> Any:
            sizes.append(len(arguments[1][0]))
            return super().call(*arguments)

    assert isinstance(original, SessionModel)
    counting = Counting(original.session, original.signature_defs)
    make_trial(original).compare(counting, Budget(1000))
    make_trial(original).compare(counting, Budget(1000), keeps_rows=lambda _: True)
    assert sizes == [1, 2, 1]


def signature_of(output: str) -> Signature:
    return Signature("s", "", {}, {"y": TensorSpec("y", output, FLOAT, (-1,))}, {})


@pytest.mark.parametrize(
    ("shape", "kept"), [([None, 3], True), ([None], True), ([1, 3], False), ([], False), (None, False)]
)
def test_rows_that_are_open_in_a_graph(shape: list[int | None] | None, kept: bool) -> None:
    with tf.Graph().as_default() as graph:
        tf.identity(tf.compat.v1.placeholder(tf.float32, shape), name="y")
    assert keeps_rows(graph, signature_of("y:0")) is kept


def test_a_number_of_rows_that_was_fixed_is_seen() -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4])
        tf.reshape(x, tf.stack([1, tf.shape(x)[1]]), name="fixed")
        tf.reshape(x, tf.stack([tf.shape(x)[0], 4]), name="open")
    assert not keeps_rows(graph, signature_of("fixed:0"))
    assert keeps_rows(graph, signature_of("open:0"))
