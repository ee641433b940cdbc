from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from app.engine.budget import KeepOriginalError
from app.engine.fast_session import open_session, read_variables
from app.engine.flat_graph import FlatGraph

TENSORS = ["x:0", "y:0"]
WEIGHTS = np.arange(1024, dtype=np.float32)


@pytest.fixture
def original() -> Iterator[Any]:
    """y = x + w in a session."""
    with tf.Graph().as_default() as graph:
        handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[1024], name="w")
        value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)
        tf.add(tf.compat.v1.placeholder(tf.float32, [None], name="x"), value, name="y")
        assign = tf.raw_ops.AssignVariableOp(resource=handle, value=tf.constant(WEIGHTS))
    with tf.compat.v1.Session(graph=graph) as session:
        session.run(assign)
        yield session


def flat_graph(session: Any) -> FlatGraph:
    flat = FlatGraph(session.graph.as_graph_def(), TENSORS)
    flat.prune()
    return flat


def test_weights_are_shared_and_outlive_the_original(original: Any) -> None:
    variables = read_variables(original, ["w"])
    fast = open_session(flat_graph(original), variables, config_pb2.ConfigProto())
    (again,) = read_variables(fast, ["w"]).values()
    assert again.ctypes.data == variables["w"].ctypes.data
    del variables
    original.close()
    x = np.ones(1024, np.float32)
    np.testing.assert_array_equal(fast.run("y:0", {"x:0": x}), WEIGHTS + 1)
    fast.close()


def test_a_variable_that_nothing_reads(original: Any) -> None:
    with original.graph.as_default():
        tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[1], name="lonely")
    with pytest.raises(KeepOriginalError, match="nothing reads the variable lonely by itself"):
        read_variables(original, ["w", "lonely"])


def test_a_wrong_graph_is_not_imported(original: Any) -> None:
    flat = flat_graph(original)
    flat.node("y").input[0] = "nowhere"
    with pytest.raises(KeepOriginalError, match="the rewritten graph is wrong: y needs nowhere"):
        open_session(flat, read_variables(original, ["w"]), config_pb2.ConfigProto())


def test_the_original_configuration_is_not_changed(original: Any) -> None:
    config = config_pb2.ConfigProto(allow_soft_placement=True)
    open_session(flat_graph(original), read_variables(original, ["w"]), config).close()
    assert not config.graph_options.rewrite_options.disable_meta_optimizer
