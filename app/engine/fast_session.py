"""Sessions whose variables take their values over from arrays: several can share the same weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from app.engine.budget import KeepOriginalError
from app.engine.dtypes import Array
from app.engine.graph_guards import fault
from app.engine.load_priority import breathe

_ASSIGNED, _READ = "ferry/assigned", "ferry/read"


@dataclass(frozen=True)
class VariableGraph:
    """A TensorFlow graph and how its variables get their values.

    Attributes:
        graph: the `tf.Graph`.
        handles: the names of its VarHandleOps.
        feeds: for each, the tensor that takes its value.
        targets: for each, the operation that assigns it.
    """

    graph: Any
    handles: tuple[str, ...]
    feeds: tuple[str, ...]
    targets: tuple[str, ...]


def unoptimised(config: Any) -> Any:
    """A copy of the `ConfigProto` `config` with which TensorFlow's optimiser leaves graphs alone."""
    own = config_pb2.ConfigProto()
    own.CopyFrom(config)
    own.graph_options.rewrite_options.disable_meta_optimizer = True
    return own


def reads_after(graph: Any, operation: str, names: Iterable[str]) -> dict[str, Any]:
    """Add to `graph` reads of variables that wait for `operation`; the tensors by the VarHandleOps' names.

    So one run restores variables and gives their values: for another, TensorFlow would optimise the whole
    graph once more.
    """
    with graph.as_default(), graph.control_dependencies([graph.as_graph_element(operation)]):
        return {name: _read(graph.get_operation_by_name(name)) for name in names}


def _read(handle: Any) -> Any:
    breathe()
    return tf.raw_ops.ReadVariableOp(
        resource=handle.outputs[0], dtype=handle.get_attr("dtype"), name=f"{_READ}/{handle.name}"
    )


def restore_and_read(session: Any, saver_def: Any, path: str, reads: Mapping[str, Any]) -> dict[str, Array]:
    """Restore from the checkpoint `path`; the values of variables by name, views of the session's own memory.

    Args:
        session: made for the graph.
        saver_def: the `SaverDef` of the graph.
        path: as its saver takes it.
        reads: by `reads_after` its restore.
    """
    options = config_pb2.CallableOptions(
        feed=[saver_def.filename_tensor_name],
        fetch=[tensor.name for tensor in reads.values()],
        target=[saver_def.restore_op_name],
    )
    options.run_options.inter_op_thread_pool = -1  # with the priority of who loads
    restore = session._make_callable_from_options(options)  # unlike `run`, it copies nothing
    values = restore(np.array(path.encode(), object))
    return {name: np.asarray(value) for name, value in zip(reads, values, strict=True)}


def with_variables(graph_def: Any) -> VariableGraph:
    """Import `graph_def`, to which the assignments of its variables are added.

    Raises:
        KeepOriginalError: TensorFlow could not run it.
    """
    handles = [node for node in graph_def.node if node.op == "VarHandleOp"]
    feeds, targets = [], []
    for number, handle in enumerate(handles):
        dtype = handle.attr["dtype"].type
        feed = graph_def.node.add(name=f"{_ASSIGNED}_{number}/value", op="Placeholder")
        feed.attr["dtype"].type = dtype
        assign = graph_def.node.add(
            name=f"{_ASSIGNED}_{number}", op="AssignVariableOp", input=[handle.name, feed.name]
        )
        assign.attr["dtype"].type = dtype
        feeds.append(f"{feed.name}:0")
        targets.append(assign.name)
    if reason := fault(graph_def):
        raise KeepOriginalError(f"the rewritten graph is wrong: {reason}")
    breathe()
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    breathe()
    return VariableGraph(graph, tuple(handle.name for handle in handles), tuple(feeds), tuple(targets))


def open_session(prepared: VariableGraph, values: Mapping[str, Array], config: Any) -> Any:
    """A session with the graph and variables of `prepared`.

    Args:
        prepared: what the session runs.
        values: by the names of VarHandleOps, those of `prepared` among them; `aligned`: the session takes
            them over.
        config: the `ConfigProto` of the session.
    """
    session = tf.compat.v1.Session(graph=prepared.graph, config=config)
    try:
        options = config_pb2.CallableOptions(feed=prepared.feeds, target=prepared.targets)
        session._make_callable_from_options(options)(*(values[handle] for handle in prepared.handles))
    except BaseException:
        session.close()
        raise
    return session
