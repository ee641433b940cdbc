from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.framework import tensor_pb2, types_pb2

from app.api.tensor_proto import LazyInputs, from_array, to_array
from app.engine import dtypes
from app.engine.dtypes import STRING, Array, DType
from app.errors import ServingError
from tests.support.models import DTYPES

ALL = [dtypes.from_number(tf.as_dtype(name).as_datatype_enum) for name in DTYPES]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def arrays(draw: st.DrawFn, dtype: DType) -> Array:
    shape = draw(SHAPES)
    if dtype is STRING:
        flat = draw(st.lists(st.binary(max_size=200), min_size=math.prod(shape), max_size=math.prod(shape)))
        strings = np.empty(len(flat), object)
        strings[:] = flat
        return strings.reshape(shape)
    if dtype.name == "bool":
        return draw(hnp.arrays(np.bool_, shape))
    # Any bits: NaN with a payload, infinities and subnormal numbers among them.
    size = math.prod(shape) * dtype.numpy.itemsize
    return np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype.numpy).reshape(shape)


def assert_same(found: Array, expected: Array) -> None:
    """The same type, shape and values; any NaN is as good as any other."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if found.dtype.kind == "c":
        parts = f"f{found.itemsize // 2}"
        found, expected = found.reshape(-1).view(parts), expected.reshape(-1).view(parts)
    if found.dtype.kind in "fV":
        with np.errstate(invalid="ignore"):
            assert ((found == expected) | (np.isnan(found) & np.isnan(expected))).all()
    else:
        assert found.tolist() == expected.tolist()


def proto(text_dtype: str, shape: list[int], **fields: Any) -> Any:
    made = tensor_pb2.TensorProto(dtype=types_pb2.DataType.Value(text_dtype), **fields)
    made.tensor_shape.SetInParent()
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    return made


# There and back, and as TensorFlow reads it.


@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize("dtype", ALL, ids=DTYPES)
def test_every_array_comes_back_and_tensorflow_reads_the_same(dtype: DType, as_content: bool) -> None:
    @given(arrays(dtype))
    @settings(max_examples=40, deadline=None)
    def check(array: Array) -> None:
        made = from_array(array, dtype, as_content=as_content)
        assert made.dtype == dtype.number
        assert [dim.size for dim in made.tensor_shape.dim] == list(array.shape)
        assert made.HasField("tensor_shape")
        received = tensor_pb2.TensorProto.FromString(made.SerializeToString())
        assert_same(to_array(received), array)
        if dtype is STRING and as_content:
            return  # tf.make_ndarray does not know this encoding; the runtime does, see below
        assert_same(np.asarray(tf.make_ndarray(received), dtype.numpy), array)

    check()


@pytest.mark.parametrize("dtype", ALL, ids=DTYPES)
def test_what_tensorflow_writes_is_read(dtype: DType) -> None:
    @given(arrays(dtype))
    @settings(max_examples=40, deadline=None)
    def check(array: Array) -> None:
        made = tf.make_tensor_proto(array, tf.as_dtype(dtype.number), array.shape)
        assert_same(to_array(made), array)

    check()


@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize("dtype", ALL, ids=DTYPES)
def test_tensorflows_runtime_reads_it_too(dtype: DType, as_content: bool) -> None:
    """`parse_tensor` is the C++ decoder that TensorFlow Serving uses."""
    values: list[Any] = [b"", b"x" * 300] if dtype is STRING else [0, 1]
    array = np.array([values], dtype.numpy)
    serialized = from_array(array, dtype, as_content=as_content).SerializeToString()
    assert_same(tf.io.parse_tensor(serialized, tf.as_dtype(dtype.number)).numpy(), array)


@pytest.mark.parametrize("as_content", [False, True])
def test_arrays_need_not_be_contiguous(as_content: bool) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    made = from_array(array, dtypes.of_array(array), as_content=as_content)
    assert_same(to_array(made), array)


@pytest.mark.parametrize("length", [31, 32, 1000])
@pytest.mark.parametrize("dtype", [dtype for dtype in ALL if dtype is not STRING], ids=lambda d: d.name)
def test_long_fields_are_those_that_tensorflow_writes(dtype: DType, length: int) -> None:
    values = np.random.default_rng(length).integers(0, 2, length).astype(dtype.numpy)
    written = from_array(values, dtype)
    np.testing.assert_array_equal(tf.make_ndarray(written), values)
    assert not written.tensor_content
    assert_same(to_array(written), values)


def test_repeated_values_are_written_out() -> None:
    made = from_array(np.zeros(5, np.float32), dtypes.of_array(np.zeros(1, np.float32)))
    assert list(made.float_val) == [0.0] * 5
    assert not made.tensor_content


# Fields and how many values they hold.


@pytest.mark.parametrize(
    ("dtype", "field", "values", "expected"),
    [
        ("DT_HALF", "half_val", [15872], [1.5]),
        ("DT_BFLOAT16", "half_val", [16320], [1.5]),
        ("DT_INT8", "int_val", [-1, 200], [-1, -56]),
        ("DT_UINT8", "int_val", [255, 256, -1], [255, 0, 255]),
        ("DT_UINT16", "int_val", [65535], [65535]),
        ("DT_UINT32", "uint32_val", [2**32 - 1], [2**32 - 1]),
        ("DT_UINT64", "uint64_val", [2**64 - 1], [2**64 - 1]),
        ("DT_INT64", "int64_val", [-(2**63)], [-(2**63)]),
        ("DT_COMPLEX64", "scomplex_val", [1, -2, 3, 4], [1 - 2j, 3 + 4j]),
        ("DT_COMPLEX128", "dcomplex_val", [1, -2], [1 - 2j]),
        ("DT_BOOL", "bool_val", [True, False], [True, False]),
        ("DT_STRING", "string_val", [b"\xff", b""], [b"\xff", b""]),
    ],
)
def test_the_field_of_a_type(dtype: str, field: str, values: list[Any], expected: list[Any]) -> None:
    assert to_array(proto(dtype, [len(expected)], **{field: values})).tolist() == expected


@pytest.mark.parametrize(
    ("shape", "values", "expected"),
    [
        ([3], [4.0], [4.0, 4.0, 4.0]),
        ([2, 2], [4.0, 6.0], [[4.0, 6.0], [6.0, 6.0]]),
        ([2], [], [0.0, 0.0]),
        ([], [], 0.0),
        ([], [5.0, 6.0], 5.0),
        ([2], [1.0, 2.0, 3.0], [1.0, 2.0]),
        ([0], [1.0], []),
        ([2, 0], [], [[], []]),
    ],
)
def test_too_few_values_repeat_the_last_and_surplus_is_dropped(
    shape: list[int], values: list[float], expected: Any
) -> None:
    made = proto("DT_FLOAT", shape, float_val=values)
    assert to_array(made).tolist() == expected
    runtime = tf.io.parse_tensor(made.SerializeToString(), tf.float32).numpy()
    assert runtime.tolist() == expected


@pytest.mark.parametrize(
    ("dtype", "fields", "expected"),
    [
        ("DT_STRING", {"string_val": [b"a", b"b"]}, [b"a", b"b", b"b"]),
        ("DT_STRING", {}, [b"", b"", b""]),
        ("DT_BOOL", {}, [False, False, False]),
        ("DT_COMPLEX64", {"scomplex_val": [1, 2]}, [1 + 2j] * 3),
        ("DT_HALF", {"half_val": [15872]}, [1.5] * 3),
        ("DT_INT8", {"int_val": [-1]}, [-1] * 3),
    ],
)
def test_that_holds_for_every_field(dtype: str, fields: dict[str, Any], expected: list[Any]) -> None:
    made = proto(dtype, [3], **fields)
    assert to_array(made).tolist() == expected
    runtime = tf.io.parse_tensor(made.SerializeToString(), tf.as_dtype(made.dtype)).numpy()
    assert runtime.tolist() == expected


def test_a_complex_number_without_its_second_part_is_dropped() -> None:
    assert to_array(proto("DT_COMPLEX64", [2], scomplex_val=[1, 2, 3])).tolist() == [1 + 2j, 1 + 2j]


def test_content_comes_before_the_field() -> None:
    made = proto("DT_FLOAT", [1], float_val=[7.0], tensor_content=np.float32(1).tobytes())
    assert to_array(made).tolist() == [1.0]


# What does not decode.


@pytest.mark.parametrize(
    "bad",
    [
        proto("DT_FLOAT", [2], tensor_content=b"1234"),
        proto("DT_FLOAT", [1], tensor_content=b"12345"),
        proto("DT_FLOAT", [0], tensor_content=b"1"),
        proto("DT_STRING", [2], tensor_content=b"\x01"),
        proto("DT_STRING", [1], tensor_content=b"\x05abc"),
        proto("DT_STRING", [1], tensor_content=b"\x01abc"),
        proto("DT_STRING", [0], tensor_content=b"a"),
        proto("DT_STRING", [1], tensor_content=b"\xff" * 11),
        proto("DT_STRING", [1], tensor_content=b"\xff" * 9 + b"\x01"),
        proto("DT_FLOAT", [-1], float_val=[1]),
        proto("DT_FLOAT", [2, -2]),
        proto("DT_FLOAT", [0, -2]),
        proto("DT_FLOAT", [-1, -1]),
        proto("DT_FLOAT", [1] * 65),
        proto("DT_INVALID", [1], float_val=[1]),
        proto("DT_RESOURCE", [1]),
        proto("DT_VARIANT", [1]),
        tensor_pb2.TensorProto(dtype=999),
        tensor_pb2.TensorProto(),
    ],
    ids=lambda bad: str(bad).replace("\n", " ")[:60],
)
def test_what_does_not_decode(bad: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        to_array(bad)


def test_a_length_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="length"):
        to_array(proto("DT_STRING", [1], tensor_content=b"\xff" * 500_000))


def test_a_tensor_of_unknown_rank_does_not_decode() -> None:
    made = proto("DT_FLOAT", [], float_val=[1])
    made.tensor_shape.unknown_rank = True
    with pytest.raises(ValueError, match="no shape"):
        to_array(made)


def test_a_tensor_without_a_shape_is_a_scalar() -> None:
    assert to_array(tensor_pb2.TensorProto(dtype=1, float_val=[3])).tolist() == 3.0


@pytest.mark.parametrize("dtype", ["DT_FLOAT", "DT_STRING", "DT_INT8", "DT_COMPLEX128"])
@pytest.mark.parametrize("shape", [[2**31], [2**62, 4], [2**16, 2**16], [2**63 - 1], [2**63 - 1] * 5])
def test_a_huge_shape_is_refused_before_memory_is_taken(dtype: str, shape: list[int]) -> None:
    with pytest.raises(ValueError, match="bad shape"):
        to_array(proto(dtype, shape))


def test_an_empty_tensor_with_huge_other_dimensions_raises_nothing_else() -> None:
    for shape in ([0, 2**62], [2**63 - 1, 0, 2**63 - 1]):
        with contextlib.suppress(ValueError):
            assert to_array(proto("DT_FLOAT", shape)).size == 0


SMALL = st.builds(
    lambda number, dims, unknown, content, floats, ints, strings, halfs: tensor_pb2.TensorProto(
        dtype=number,
        tensor_shape={"dim": [{"size": size} for size in dims], "unknown_rank": unknown},
        tensor_content=content,
        float_val=floats,
        int_val=ints,
        int64_val=ints,
        string_val=strings,
        half_val=halfs,
        scomplex_val=floats,
    ),
    st.integers(0, 30),
    st.lists(st.one_of(st.integers(-2, 4), st.sampled_from([2**31, 2**63 - 1, -(2**63)])), max_size=4),
    st.booleans(),
    st.one_of(st.just(b""), st.binary(max_size=40)),
    st.lists(st.floats(width=32), max_size=5),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
    st.lists(st.binary(max_size=4), max_size=5),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
)


@given(SMALL)
@settings(max_examples=300, deadline=None)
def test_any_message_gives_an_array_or_a_value_error(message: Any) -> None:
    try:
        array = to_array(message)
    except ValueError:
        return
    assert list(array.shape) == [dim.size for dim in message.tensor_shape.dim]
    assert dtypes.of_array(array).number == message.dtype


@given(st.binary(max_size=100))
@settings(max_examples=300, deadline=None)
def test_random_bytes_give_an_array_or_a_value_error(content: bytes) -> None:
    try:
        message = tensor_pb2.TensorProto.FromString(content)
    except DecodeError:
        return
    try:
        array = to_array(message)
    except ValueError:
        return
    assert dtypes.of_array(array).number == message.dtype


# The inputs of a request.


def test_inputs_are_decoded_when_looked_at() -> None:
    inputs = LazyInputs({"good": proto("DT_FLOAT", [1], float_val=[2]), "bad": proto("DT_FLOAT", [-1])})
    assert len(inputs) == 2
    assert set(inputs) == {"good", "bad"}
    assert "bad" in inputs
    assert "other" not in inputs
    assert inputs["good"].tolist() == [2.0]
    with pytest.raises(ServingError) as raised:
        inputs["bad"]
    assert str(raised.value) == "INVALID_ARGUMENT: tensor parsing error: bad"
