"""Tensors to JSON: every dtype and shape reads back, and the texts of errors."""

import base64
import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorflow_serving.apis import classification_pb2, regression_pb2

from app.engine import dtypes
from app.engine.dtypes import Array
from app.engine.signature import TensorSpec
from app.errors import Code, ServingError
from app.rest.json_decode import read_document, to_tensors
from app.rest.json_encode import encode_classify, encode_error, encode_predict, encode_regress

WRITABLE = ["f4", "f8", "i1", "i2", "i4", "i8", "u1", "u4", "u8", "?"]
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
NUMBERS = st.sampled_from(WRITABLE).flatmap(lambda dtype: arrays.arrays(np.dtype(dtype), SHAPES))


def strings(items: Any) -> Array:
    array = np.array(items, object)
    assert array.dtype == object
    return array


def refused(outputs: dict[str, Array], *, row: bool) -> str:
    with pytest.raises(ServingError) as caught:
        encode_predict(outputs, row)
    assert caught.value.code == Code.INVALID_ARGUMENT
    return caught.value.message


def read_back(value: object, like: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.array(value, dtype=like.dtype)


@given(NUMBERS)
def test_every_dtype_and_shape(array: Array) -> None:
    body = json.loads(encode_predict({"y": array}, row=False))
    assert list(body) == ["outputs"]
    # tolist() shows an empty dimension as JSON does: what is behind it is lost.
    expected = read_back(array.tolist(), array)
    np.testing.assert_array_equal(read_back(body["outputs"], array), expected, strict=True)
    if array.ndim:
        rows = json.loads(encode_predict({"y": array}, row=True))
        assert list(rows) == ["predictions"]
        np.testing.assert_array_equal(read_back(rows["predictions"], array), expected, strict=True)
        assert len(rows["predictions"]) == len(array)


@given(NUMBERS.filter(lambda array: array.ndim > 0))
def test_rows_of_several_outputs(array: Array) -> None:
    names = strings([f"{i}" for i in range(len(array))])
    body = json.loads(encode_predict({"n": names, "y": array}, row=True))
    for position, item in enumerate(body["predictions"]):
        assert list(item) == ["n", "y"]
        assert item["n"] == str(position)
        expected = read_back(array[position].tolist(), array)
        np.testing.assert_array_equal(read_back(item["y"], array), expected, strict=True)
    assert len(body["predictions"]) == len(array)


@given(NUMBERS.filter(lambda array: array.ndim > 0 and array.size > 0))
def test_what_is_encoded_can_be_sent_back(array: Array) -> None:
    body = encode_predict({"x": array}, row=False).replace(b"outputs", b"inputs")
    spec = TensorSpec("x", "x:0", dtypes.of_array(array), None)
    decoded, row = to_tensors(read_document(body), {"x": spec})
    assert not row
    np.testing.assert_array_equal(decoded["x"], array, strict=True)
    if array.dtype.kind == "f":
        zeros = array == 0
        np.testing.assert_array_equal(np.signbit(decoded["x"][zeros]), np.signbit(array[zeros]))


def test_bodies() -> None:
    one = np.array([2.5, 3], np.float32)
    assert encode_predict({"y": one}, row=True) == b'{"predictions":[2.5,3.0]}'
    assert encode_predict({"y": one}, row=False) == b'{"outputs":[2.5,3.0]}'
    assert encode_predict({"y": np.array(7)}, row=False) == b'{"outputs":7}'
    two = {"b": np.array([1, 2]), "a": np.array([[True], [False]])}
    assert encode_predict(two, row=True) == b'{"predictions":[{"b":1,"a":[true]},{"b":2,"a":[false]}]}'
    assert encode_predict(two, row=False) == b'{"outputs":{"b":[1,2],"a":[[true],[false]]}}'
    assert encode_predict({"y": np.zeros((0, 2))}, row=True) == b'{"predictions":[]}'
    assert encode_predict({"y": np.zeros((2, 0, 3))}, row=True) == b'{"predictions":[[],[]]}'
    assert (
        encode_predict({'"': np.zeros(0), "é": np.zeros(0)}, row=False)
        == '{"outputs":{"\\"":[],"é":[]}}'.encode()
    )


def test_numbers_that_are_not_finite() -> None:
    array = np.array([[math.nan, 1], [-math.inf, math.inf]], np.float32)
    assert encode_predict({"y": array}, row=True) == b'{"predictions":[[NaN,1.0],[-Infinity,Infinity]]}'
    assert encode_predict({"y": array[0, 0]}, row=False) == b'{"outputs":NaN}'
    assert encode_predict({"y": array[:, 0], "z": array}, row=True) == (
        b'{"predictions":[{"y":NaN,"z":[NaN,1.0]},{"y":-Infinity,"z":[-Infinity,Infinity]}]}'
    )
    assert encode_predict({"y": np.full((), -math.inf)}, row=False) == b'{"outputs":-Infinity}'


def test_any_memory_layout() -> None:
    array = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    for view in (array.T, array[:, ::-1], array[:, :, 1], np.asfortranarray(array)):
        assert json.loads(encode_predict({"y": view}, row=True)) == {"predictions": view.tolist()}
        both = json.loads(encode_predict({"y": view, "z": view}, row=True))["predictions"]
        assert both == [{"y": item, "z": item} for item in view.tolist()]


def test_strings() -> None:
    array = strings([[b'a"\\\n\x01', "é/\u2028".encode()], [b"\xff", b""]])
    assert encode_predict({"s": array}, row=True) == (
        b'{"predictions":[["a\\"\\\\\\n\\u0001","\xc3\xa9/\xe2\x80\xa8"],["\xff",""]]}'
    )
    assert encode_predict({"s": strings(b"x")}, row=False) == b'{"outputs":"x"}'
    assert (
        encode_predict({"s": np.array(["x"]), "t": np.array([b"y"])}, row=False)
        == b'{"outputs":{"s":["x"],"t":["y"]}}'
    )


def test_bytes_by_suffix() -> None:
    array = strings([b"a", b"\xff"])
    expected = b'[{"b64":"YQ=="},{"b64":"/w=="}]'
    assert encode_predict({"x_bytes": array}, row=True) == b'{"predictions":' + expected + b"}"
    assert encode_predict({"x_bytes": array}, row=False) == b'{"outputs":' + expected + b"}"
    assert encode_predict({"x_bytes": np.array([1])}, row=True) == b'{"predictions":[1]}'


@given(arrays.arrays(object, SHAPES, elements=st.binary(max_size=6)))
def test_every_string_reads_back(array: Array) -> None:
    body = encode_predict({"s": array, "s_bytes": array}, row=False)
    outputs = json.loads(body.decode("utf-8", "surrogateescape"))["outputs"]
    texts = np.array(outputs["s"], object).ravel().tolist()
    assert [text.encode("utf-8", "surrogateescape") for text in texts] == array.ravel().tolist()
    encoded = np.array(outputs["s_bytes"], object).ravel().tolist()
    assert [base64.b64decode(item["b64"]) for item in encoded] == array.ravel().tolist()


def test_refusals() -> None:
    scalar, short, long = np.ones((), np.float32), np.zeros(1), np.zeros((2, 3))
    assert refused({}, row=True) == "Cannot convert empty tensor map to JSON"
    assert refused({"y": short, "t": scalar}, row=True) == "Tensor name: t has no shape information "
    assert refused({"y": short, "z": long}, row=True) == (
        "Tensor name: z has inconsistent batch size: 2 expecting: 1"
    )
    for dtype, name in (
        (np.float16, "half"),
        (ml_dtypes.bfloat16, "bfloat16"),
        (np.uint16, "uint16"),
        (np.complex64, "complex64"),
    ):
        for row in (True, False):
            message = f"Failed to write JSON value for tensor type: {name}"
            assert refused({"y": np.ones(1, dtype)}, row=row) == message
        assert encode_predict({"y": np.ones(0, dtype)}, row=True) == b'{"predictions":[]}'


def test_error_body() -> None:
    assert encode_error("a\n") == b'{\n    "error": "a\\n"\n}'
    assert encode_error('"\\/\r\t\b\f\x0b\x7f é\udcff') == (
        b'{\n    "error": "\\"\\\\/\\r\\t\\b\\f\\u000B\x7f \xc3\xa9\xff"\n}'
    )
    assert encode_error("") == b'{\n    "error": ""\n}'


def test_a_large_tensor_with_nan_reads_back() -> None:
    array = np.random.default_rng(0).random((1, 224, 224, 3)).astype(np.float32)
    array[0, 0] = math.nan
    (row,) = json.loads(encode_predict({"y": array, "z": array}, row=True))["predictions"]
    np.testing.assert_array_equal(np.array(row["y"], np.float32), array[0])
    np.testing.assert_array_equal(np.array(row["z"], np.float32), array[0])


def test_classes_and_values_are_written() -> None:
    classes = classification_pb2.ClassificationResult()
    row = classes.classifications.add()
    row.classes.add(label='ca"t', score=0.9)
    row.classes.add(label="", score=float("nan"))
    classes.classifications.add()
    expected = b'{"results":[[["ca\\"t",0.9],["",NaN]],[]]}'
    assert encode_classify(classes) == expected
    values = regression_pb2.RegressionResult()
    for value in (2.5, 3.0, float("-inf")):
        values.regressions.add(value=value)
    assert encode_regress(values) == b'{"results":[2.5,3.0,-Infinity]}'
    assert encode_regress(regression_pb2.RegressionResult()) == b'{"results":[]}'
