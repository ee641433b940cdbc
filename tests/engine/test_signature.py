from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow.core.protobuf import meta_graph_pb2

from app.engine import dtypes
from app.engine.signature import Signature, TensorSpec, example_input, spec_of


def spec(text: str) -> TensorSpec:
    return spec_of("a", text_format.Parse(text, meta_graph_pb2.TensorInfo()))


def dtype(name: str) -> dtypes.DType:
    return next(d for d in map(dtypes.from_number, range(24)) if d.name == name)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("tensor_shape { dim { size: -1 } dim { size: 3 } }", (-1, 3)),
        ("tensor_shape { }", ()),
        ("tensor_shape { unknown_rank: true }", None),
        ("", None),
    ],
)
def test_the_declared_shape(text: str, shape: tuple[int, ...] | None) -> None:
    assert spec(f'name: "x:0" dtype: DT_FLOAT {text}') == TensorSpec("a", "x:0", dtype("float"), shape)


def test_a_sparse_input_has_no_tensor() -> None:
    text = 'coo_sparse { values_tensor_name: "v" indices_tensor_name: "i" } dtype: DT_INT64'
    assert spec(text).tensor == ""


@pytest.mark.parametrize(
    ("outputs", "callable_"),
    [
        ({"y": "float"}, True),
        ({"y": "float", "z": "string"}, True),
        ({"__saved_model_init_op": "invalid"}, False),
        ({"y": "float", "z": "invalid"}, False),
        ({}, False),
    ],
)
def test_a_signature_is_callable_if_it_yields_tensors(outputs: dict[str, str], callable_: bool) -> None:
    specs = {alias: TensorSpec(alias, f"{alias}:0", dtype(name), ()) for alias, name in outputs.items()}
    assert Signature("s", "", {}, specs, {}).is_callable is callable_


@pytest.mark.parametrize(
    ("shape", "expected"), [((), ()), ((-1,), (1,)), ((-1, 3, -1), (1, 3, 1)), ((0, 2), (0, 2))]
)
@pytest.mark.parametrize("name", ["float", "bfloat16", "bool", "complex128", "string"])
def test_an_example_has_the_declared_type_and_one_for_unknown_dimensions(
    name: str, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    example = example_input(TensorSpec("x", "x:0", dtype(name), shape))
    assert example is not None
    assert example.shape == expected
    assert example.dtype == dtype(name).numpy
    assert not example.astype(bool).any()
    assert name != "string" or all(value == b"" for value in example.ravel())


@pytest.mark.parametrize(
    "without",
    [
        TensorSpec("x", "x:0", dtype("float"), None),
        TensorSpec("x", "x:0", dtype("resource"), ()),
        TensorSpec("x", "x:0", dtype("qint8"), (1,)),
    ],
)
def test_there_is_no_example_of_unknown_rank_or_type(without: TensorSpec) -> None:
    assert example_input(without) is None


def test_an_example_is_made_of_zeros() -> None:
    example = example_input(TensorSpec("x", "x:0", dtype("int32"), (2,)))
    np.testing.assert_array_equal(example, np.zeros(2, np.int32), strict=True)
