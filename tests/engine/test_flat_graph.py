from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from app.engine.flat_graph import FlatGraph, node_of


def variable(name: str) -> Any:
    handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2], name=name)
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32, name=f"{name}_read")


def flat(make: Any) -> FlatGraph:
    with tf.Graph().as_default() as graph:
        make(tf.compat.v1.placeholder(tf.float32, [None, 2], name="x"))
    return FlatGraph(graph.as_graph_def(), ["x:0", "y:0"])


def scaled(x: Any) -> None:
    scale = tf.multiply(variable("a"), 2.0, name="scale")
    tf.add(tf.multiply(x, scale, name="product"), variable("b"), name="y")


def test_what_follows_from_weights_is_static() -> None:
    graph = flat(scaled)
    static = {node.name: graph.is_static(node.name) for node in graph.graph_def.node}
    assert static["scale"]
    assert static["a_read"]
    assert not any(static[name] for name in ("x", "y", "product"))
    assert graph.variable_of("a_read") == "a"


def test_the_frontier_becomes_variables_and_what_only_it_needs_goes() -> None:
    graph = flat(scaled)
    assert graph.frontier() == ["scale:0"]
    (name,) = graph.replace_by_variables({"scale:0": np.array([2, 4], np.float32)}).values()
    assert sorted(node.name for node in graph.variables()) == sorted(["b", name])
    assert "scale" not in {node.name for node in graph.graph_def.node}
    assert graph.node(name).attr["dtype"].type == tf.float32.as_datatype_enum
    assert [dim.size for dim in graph.node(name).attr["shape"].shape.dim] == [2]
    assert graph.frontier() == []


def test_equal_static_nodes_are_shared() -> None:
    def twice(x: Any) -> None:
        value = variable("a")
        again = tf.raw_ops.ReadVariableOp(resource=value.op.inputs[0], dtype=tf.float32)
        two = tf.constant(2.0)
        tf.add(x * tf.multiply(value, two), tf.multiply(again, two), name="y")

    graph = flat(twice)
    assert len(graph.frontier()) == 2
    graph.share()
    assert len(graph.frontier()) == 1


def test_what_runs_within_a_branch_is_static_only_outside() -> None:
    def branch(x: Any) -> None:
        out, _ = tf.raw_ops.Switch(data=x, pred=tf.reduce_sum(x) > 0)
        with tf.control_dependencies([out]):
            inside = tf.constant([1.0], name="inside")
        tf.raw_ops.Merge(inputs=[out + inside, x])
        tf.identity(x, name="y")

    graph = flat(branch)
    assert not graph.is_static("inside")


def test_nodes_of_inputs() -> None:
    assert [node_of(key) for key in ("a", "a:1", "^a", "b/a:0")] == ["a", "a", "a", "b/a"]


def test_graphs_that_differ_in_names_only_have_one_fingerprint() -> None:
    def renamed(x: Any) -> None:
        tf.add(tf.multiply(x, tf.multiply(variable("c"), 3.0)), variable("d"), name="y")

    def wider(x: Any) -> None:
        handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2, 2], name="a")
        read = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)
        tf.add(tf.multiply(x, tf.multiply(read, 2.0)), variable("b"), name="y")

    def other(x: Any) -> None:
        tf.add(tf.subtract(x, tf.multiply(variable("a"), 2.0)), variable("b"), name="y")

    first, again, renamed_, wider_, other_ = (
        flat(make).fingerprint() for make in (scaled, scaled, renamed, wider, other)
    )
    assert first == again == renamed_
    assert len({first, wider_, other_}) == 3


def test_the_variables_that_tensors_need() -> None:
    graph = flat(scaled)
    assert graph.variables_under(["y:0"]) == {"a", "b"}
    assert graph.variables_under(["product:0"]) == {"a"}
    assert graph.variables_under(["x:0"]) == set()
