from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, saver_pb2

from app.engine.budget import KeepOriginalError
from app.engine.fast_session import (
    open_session,
    reads_after,
    restore_and_read,
    unoptimised,
    with_variables,
)
from app.engine.flat_graph import FlatGraph

TENSORS = ["x:0", "y:0"]
WEIGHTS = np.arange(1024, dtype=np.float32)


@pytest.fixture
def original() -> Iterator[Any]:
    """y = x + w in a session."""
    with tf.Graph().as_default() as graph:
        handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[1024], name="w")
        value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32, name="read")
        tf.add(tf.compat.v1.placeholder(tf.float32, [None], name="x"), value, name="y")
        with tf.control_dependencies([tf.compat.v1.placeholder(tf.string, [], name="file")]):
            tf.raw_ops.AssignVariableOp(resource=handle, value=tf.constant(WEIGHTS), name="assign")
    with tf.compat.v1.Session(graph=graph) as session:
        session.run("assign", {"file:0": "any"})
        yield session


def flat_graph(session: Any) -> FlatGraph:
    flat = FlatGraph(session.graph.as_graph_def(), TENSORS)
    flat.prune()
    return flat


def test_one_run_assigns_and_reads_weights_which_outlive_the_original(original: Any) -> None:
    reads = reads_after(original.graph, "assign", ["w"])
    saver_def = saver_pb2.SaverDef(filename_tensor_name="file:0", restore_op_name="assign")
    variables = restore_and_read(original, saver_def, "any", reads)
    np.testing.assert_array_equal(variables["w"], WEIGHTS)
    fast = open_session(
        with_variables(flat_graph(original).graph_def), variables, unoptimised(config_pb2.ConfigProto())
    )
    view = fast._make_callable_from_options(config_pb2.CallableOptions(fetch=["read:0"]))
    address = variables["w"].ctypes.data
    assert view()[0].ctypes.data == address
    del variables
    original.close()
    x = np.ones(1024, np.float32)
    np.testing.assert_array_equal(fast.run("y:0", {"x:0": x}), WEIGHTS + 1)
    assert view()[0].ctypes.data == address
    fast.close()


def test_a_wrong_graph_is_not_imported(original: Any) -> None:
    flat = flat_graph(original)
    flat.node("y").input[0] = "nowhere"
    with pytest.raises(KeepOriginalError, match="the rewritten graph is wrong: y needs nowhere"):
        with_variables(flat.graph_def)


def test_the_original_configuration_is_not_changed() -> None:
    config = config_pb2.ConfigProto(allow_soft_placement=True)
    own = unoptimised(config)
    assert own.allow_soft_placement
    assert own.graph_options.rewrite_options.disable_meta_optimizer
    assert not config.graph_options.rewrite_options.disable_meta_optimizer
