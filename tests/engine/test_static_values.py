from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app.engine.static_values import StaticValues, aligned, can_compute, stand_in

FLOATS = arrays.arrays(np.float32, (2, 3), elements=st.integers(-64, 64).map(lambda n: n / 8))


def computed(make: Any, *values: Any) -> tuple[Any, Any]:
    """What NumPy makes of a graph of constants, and what TensorFlow does."""
    with tf.Graph().as_default() as graph:
        result = make(*map(tf.constant, values))
    nodes = {node.name: node for node in graph.as_graph_def().node}
    assert all(map(can_compute, nodes.values()))
    with tf.compat.v1.Session(graph=graph) as session:
        found = StaticValues(nodes.__getitem__, {})(result.name)
        form = StaticValues(nodes.__getitem__, {}, shapes_only=True)(result.name)
        assert (form.shape, form.dtype) == (found.shape, found.dtype)
        return found, session.run(result)


@pytest.mark.parametrize(
    "make",
    [
        lambda x, y: x + y,
        lambda x, y: x - y,
        lambda x, y: x * y,
        lambda x, y: x / y,
        lambda x, y: tf.maximum(x, tf.minimum(y, -x)),
        lambda x, y: tf.sqrt(tf.square(x)) + tf.math.rsqrt(y),
        lambda x, y: tf.cast(tf.cast(x, tf.bfloat16), tf.float32) + tf.identity(y),
        lambda x, y: tf.transpose(tf.reshape(x, [3, 1, 2]), [2, 0, 1]) + tf.expand_dims(y, -1),
        lambda x, _: tf.squeeze(tf.expand_dims(x, 1), [1]),
        lambda x, _: tf.squeeze(tf.expand_dims(x, 1)),
    ],
)
@given(x=FLOATS, y=FLOATS)
@settings(max_examples=10)
def test_numpy_computes_what_tensorflow_does(make: Any, x: Any, y: Any) -> None:
    found, expected = computed(make, x, y)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_stands_in_takes_no_memory() -> None:
    found = stand_in((1000, 1000, 1000, 1000), np.dtype(np.float32))
    assert found.shape == (1000, 1000, 1000, 1000)
    assert not any(found.strides)
    assert found.base is not None
    assert found.base.nbytes == 4


def test_only_floats_are_computed() -> None:
    with tf.Graph().as_default() as graph:
        _ = tf.constant([7]) + tf.constant([2])
        tf.reverse(tf.constant([1.0]), [0])
    ops = {node.op: can_compute(node) for node in graph.as_graph_def().node}
    assert ops == {"Const": True, "AddV2": False, "ReverseV2": False}


@given(x=arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0)))
def test_aligned_copies_only_what_lies_wrong(x: Any) -> None:
    found = aligned(x)
    np.testing.assert_array_equal(found, x)
    assert found.ctypes.data % 64 == 0 or not found.size
    assert aligned(found) is found or not found.size
