from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from app.engine.graph_guards import bytes_of, fault, obstacle, ops_of


def graph_def(make: Any) -> Any:
    with tf.Graph().as_default() as graph:
        make()
    return graph.as_graph_def()


def test_a_plain_graph_may_be_rewritten() -> None:
    plain = graph_def(lambda: tf.nn.relu(tf.compat.v1.placeholder(tf.float32, [None, 3])) + 1.0)
    assert obstacle(plain) is None
    assert fault(plain) is None
    assert list(ops_of(plain)) == ["AddV2", "Const", "Relu", "Placeholder"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: tf.random.uniform([1]), "state or effects of its own (RandomUniform)"),
        (lambda: tf.raw_ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.int64), "has tables"),
        (tf.function(lambda: tf.random.uniform([1])), "(RandomUniform)"),
        (lambda: tf.signal.fft(tf.constant([1j])), "the op FFT, with which this was never tried"),
    ],
)
def test_obstacles(make: Any, reason: str) -> None:
    assert reason in (obstacle(graph_def(make)) or "")


def test_an_op_that_tensorflow_does_not_have() -> None:
    graph = graph_def(lambda: tf.constant(1.0))
    graph.node.add(name="x", op="NoSuchOp")
    assert "NoSuchOp, which TensorFlow does not describe" in (obstacle(graph) or "")
    assert fault(graph) == "x has the unknown op NoSuchOp"


def test_faults() -> None:
    graph = graph_def(lambda: tf.constant(1.0))
    relu = graph.node.add(name="relu", op="Relu", input=["nowhere:0"])
    assert fault(graph) == "relu lacks the attribute T" or "nowhere" in (fault(graph) or "")
    relu.attr["T"].type = types_pb2.DT_FLOAT
    assert fault(graph) == "relu needs nowhere:0, which is not there"
    relu.input[0] = "Const"
    assert fault(graph) is None
    graph.node.add().CopyFrom(relu)
    assert fault(graph) == "two nodes have one name"


def test_a_missing_attribute() -> None:
    graph = graph_def(lambda: tf.constant(1.0))
    graph.node.add(name="in", op="Placeholder")
    assert fault(graph) == "in lacks the attribute dtype"


def test_the_size_of_variables() -> None:
    graph = graph_def(lambda: tf.raw_ops.VarHandleOp(dtype=tf.float16, shape=[3, 5]))
    (node,) = graph.node
    assert bytes_of(node) == 30
    node.attr["shape"].shape.dim[0].size = -1
    assert bytes_of(node) == 0
