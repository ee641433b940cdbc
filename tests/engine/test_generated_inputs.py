from __future__ import annotations

import numpy as np
import tensorflow as tf

from app.engine import dtypes
from app.engine.generated_inputs import candidates
from app.engine.signature import Signature, TensorSpec


def signature(shape: tuple[int, ...] | None, number: int) -> Signature:
    return Signature("s", "", {"x": TensorSpec("x", "x:0", dtypes.from_number(number), shape)}, {}, {})


def test_numbers_are_always_the_same_and_open_dimensions_are_tried() -> None:
    found = [inputs["x"] for inputs in candidates(signature((-1, -1, 3), 1), 2)]
    assert [value.shape for value in found] == [(2, 1, 3), (2, 32, 3), (2, 224, 3)]
    assert found[0].dtype == np.float32
    again = next(iter(candidates(signature((-1, -1, 3), 1), 2)))
    np.testing.assert_array_equal(found[0], again["x"])


def test_integers_are_small() -> None:
    (inputs,) = candidates(signature((-1, 100), 3), 4)
    assert set(inputs["x"].ravel().tolist()) == {0, 1}


def test_one_of_the_texts_is_a_picture() -> None:
    texts = [inputs["x"][0] for inputs in candidates(signature((-1,), 7), 1)]
    picture = next(text for text in texts if text.startswith(b"\x89PNG"))
    assert tf.io.decode_image(picture, channels=3).shape == (1, 1, 3)


def test_nothing_for_unknown_rank() -> None:
    assert list(candidates(signature(None, 1), 1)) == []
