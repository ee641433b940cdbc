"""A rewritten graph in a session of its own, which shares the weights of the original's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import config_pb2

from app.engine.budget import KeepOriginalError
from app.engine.dtypes import Array
from app.engine.flat_graph import FlatGraph
from app.engine.graph_guards import fault

_ASSIGNED = "ferry/assigned"


def read_variables(session: Any, names: Iterable[str]) -> dict[str, Array]:
    """The values of variables by the names of their VarHandleOps: views of the session's own memory.

    Raises:
        KeepOriginalError: the graph does not read one of them by itself.
    """
    wanted = set(names)
    reads = {
        operation.inputs[0].op.name: operation.outputs[0].name
        for operation in session.graph.get_operations()
        if operation.type == "ReadVariableOp" and operation.inputs[0].op.name in wanted
    }
    if missing := wanted - reads.keys():
        raise KeepOriginalError(f"nothing reads the variable {min(missing)} by itself")
    read = session._make_callable_from_options(config_pb2.CallableOptions(fetch=list(reads.values())))
    return dict(zip(reads, read(), strict=True))


def open_session(flat: FlatGraph, variables: Mapping[str, Array], config: Any) -> Any:
    """A session with the graph `flat` and its variables.

    Args:
        flat: fully rewritten: TensorFlow's optimiser does not look at it again.
        variables: the values by the names of their VarHandleOps, `aligned`: the session takes them over.
        config: the `ConfigProto` of the original's session.

    Raises:
        KeepOriginalError: the graph cannot be imported.
    """
    graph_def = graph_pb2.GraphDef(versions=flat.graph_def.versions, library=flat.graph_def.library)
    graph_def.node.extend(flat.graph_def.node)
    feeds, targets, values = [], [], []
    for number, (handle, value) in enumerate(variables.items()):
        dtype = tf.as_dtype(value.dtype).as_datatype_enum
        feed = graph_def.node.add(name=f"{_ASSIGNED}_{number}/value", op="Placeholder")
        feed.attr["dtype"].type = dtype
        assign = graph_def.node.add(
            name=f"{_ASSIGNED}_{number}", op="AssignVariableOp", input=[handle, feed.name]
        )
        assign.attr["dtype"].type = dtype
        feeds.append(f"{feed.name}:0")
        targets.append(assign.name)
        values.append(value)
    if reason := fault(graph_def):
        raise KeepOriginalError(f"the rewritten graph is wrong: {reason}")
    own = config_pb2.ConfigProto()
    own.CopyFrom(config)
    own.graph_options.rewrite_options.disable_meta_optimizer = True
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    session = tf.compat.v1.Session(graph=graph, config=own)
    try:
        options = config_pb2.CallableOptions(feed=feeds, target=targets)
        session._make_callable_from_options(options)(*values)
    except BaseException:
        session.close()
        raise
    return session
