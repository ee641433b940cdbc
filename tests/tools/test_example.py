from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.engine import dtypes
from app.engine.signature import Signature, TensorSpec
from app.rest.json_decode import read_document, to_tensors
from app.tools.example import Example, Filled, examples

TYPES = [dtypes.from_number(number) for number in (1, 2, 3, 4, 5, 6, 7, 9, 10, 22, 23)]
SHAPES = st.one_of(st.none(), st.lists(st.integers(-1, 3).filter(bool), max_size=3).map(tuple))


def signature(inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec] | None = None) -> Signature:
    return Signature("s", "tensorflow/serving/predict", inputs, outputs or inputs, {})


@given(st.lists(st.tuples(st.sampled_from(TYPES), SHAPES), min_size=1, max_size=3), st.integers(1, 3))
def test_the_json_body_is_the_message(fields: list[tuple[dtypes.DType, tuple[int, ...]]], batch: int) -> None:
    specs = {f"i{n}": TensorSpec(f"i{n}", f"t{n}:0", dtype, shape) for n, (dtype, shape) in enumerate(fields)}
    made = next(examples(signature(specs), batch=batch))
    assert made.rest_obstacle() == ""
    body = read_document(json.dumps(made.rest_body()).encode())
    decoded, by_rows = to_tensors(body, specs)
    assert by_rows == all(shape is not None and shape[:1] == (-1,) for _, shape in fields)
    for alias, value in decoded.items():
        expected = made.inputs[alias].array
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)
        assert made.message("m").inputs[alias].dtype == specs[alias].dtype.number


def test_large_values_are_computed_by_the_command() -> None:
    image = Filled(dtypes.from_number(1), (1, 8, 8, 3), 1.0)
    assert image.expression() == "[[[[1.0] * 3] * 8] * 8]"
    assert eval(image.expression()) == image.nested()
    spec = TensorSpec("x", "x:0", image.dtype, (-1, 8, 8, 3))
    line = Example(signature({"x": spec}), "predict", {"x": image}, {}).curl("http://h:1/v1/models/m")
    assert line.endswith("| curl -s -d @- http://h:1/v1/models/m:predict")
    assert "[1.0, 1.0" not in line


def test_open_sizes_and_texts_are_tried_in_turn() -> None:
    shape = (-1, -1, 3)
    spec = TensorSpec("x", "x:0", dtypes.from_number(1), shape)
    assert [made.inputs["x"].shape for made in examples(signature({"x": spec}))] == [
        (1, size, 3) for size in (1, 32, 224)
    ]
    text = TensorSpec("jpeg", "t:0", dtypes.STRING, (-1,))
    first, *_ = examples(signature({"jpeg": text}))
    assert str(first.inputs["jpeg"].value).startswith("b'\\x89PNG")


def test_nothing_is_made_up_for_types_without_values() -> None:
    spec = TensorSpec("r", "r:0", dtypes.from_number(20), ())
    assert list(examples(signature({"r": spec}))) == []
