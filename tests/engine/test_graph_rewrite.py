from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.python.util import _pywrap_util_port

from app.engine import graph_rewrite
from app.engine.flat_graph import FlatGraph

TENSORS = ["x:0", "y:0"]


def network(dtype: Any = tf.float32, *, static: bool = True) -> Any:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(dtype, [None, 4, 4, 2], name="x")
        weights = tf.ones([3, 3, 2, 2], dtype)
        filters = tf.constant(np.ones([3, 3, 2, 2]), dtype) if static else weights * tf.reduce_sum(x)

        def call(value: Any, by: Any) -> Any:
            return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(value, by, 1, "SAME"), tf.ones([2], dtype)))

        tf.identity(tf.function(call, autograph=False)(x, filters), name="y")
    return graph.as_graph_def()


def test_functions_are_inlined() -> None:
    flat = graph_rewrite.flatten(network(), TENSORS)
    assert not [node.op for node in flat.node if "Call" in node.op]
    assert {"Conv2D", "BiasAdd", "Relu"} <= {node.op for node in flat.node}


def fused(graph_def: Any) -> FlatGraph:
    flat = graph_rewrite.flatten(graph_def, TENSORS)
    return FlatGraph(graph_rewrite.optimise(flat, TENSORS), TENSORS)


def test_what_follows_a_convolution_is_fused_into_it() -> None:
    graph = fused(network())
    ops = {node.op for node in graph.graph_def.node}
    assert "_FusedConv2D" in ops
    assert not {"BiasAdd", "Relu"} & ops
    assert {"x", "y"} <= {node.name for node in graph.graph_def.node}
    assert not any(node.device for node in graph.graph_def.node)


def test_fixed_filters_are_marked_where_there_is_such_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    if not graph_rewrite.has_onednn_kernel("_MklNativeFusedConv2D", types_pb2.DT_FLOAT):
        pytest.skip("this TensorFlow has no oneDNN")
    monkeypatch.setattr(_pywrap_util_port, "IsMklEnabled", lambda: True)
    graph = fused(network())
    assert graph_rewrite.fix_filters(graph) == 1
    (node,) = (node for node in graph.graph_def.node if node.op == "_MklNativeFusedConv2D")
    assert node.attr["is_filter_const"].b
    assert graph_rewrite.fix_filters(fused(network(static=False))) == 0
    assert graph_rewrite.fix_filters(fused(network(tf.float64))) == 0
    monkeypatch.setattr(graph_rewrite, "has_onednn_kernel", lambda *_: False)
    assert graph_rewrite.fix_filters(fused(network())) == 0


def test_nothing_is_marked_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pywrap_util_port, "IsMklEnabled", lambda: False)
    assert graph_rewrite.fix_filters(fused(network())) == 0


def test_kernels_are_looked_up() -> None:
    assert not graph_rewrite.has_onednn_kernel("_MklNativeNoSuchThing", types_pb2.DT_FLOAT)
    assert not graph_rewrite.has_onednn_kernel("_MklNativeConv2D", types_pb2.DT_INT32)
