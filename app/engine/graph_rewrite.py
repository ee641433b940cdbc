"""Rewrites of a graph that leave its answers alone and make it faster on the CPU.

They work on the graph without its weights, which stay in variables: a GraphDef with weights in it would
be copied by every step, and again by every combination of outputs that a client asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2
from tensorflow.python.framework import kernels
from tensorflow.python.grappler import tf_optimizer
from tensorflow.python.util import _pywrap_util_port

from app.engine.flat_graph import FlatGraph, node_of
from app.engine.load_priority import aside, breathe

_CPU = "/job:localhost/replica:0/task:0/device:CPU:0"
# What TensorFlow's oneDNN pass would make of each at the first run, without knowing that weights are fixed.
_ONEDNN = {
    "Conv2D": "_MklNativeConv2D",
    "_FusedConv2D": "_MklNativeFusedConv2D",
    "_FusedDepthwiseConv2dNative": "_MklNativeFusedDepthwiseConv2dNative",
    "_FusedMatMul": "_MklNativeFusedMatMul",
}
GAINING = frozenset(("Conv2D", "DepthwiseConv2dNative", "MatMul"))
"""Ops of a flattened graph without which nothing here makes it faster."""
_ONEDNN_LABEL = "MklNameChangeOp"
_ONEDNN_FUSIONS = (
    *((b"BiasAdd",), (b"BiasAdd", b"Relu"), (b"BiasAdd", b"Relu6"), (b"BiasAdd", b"Elu")),
    *((b"BiasAdd", b"Add"), (b"BiasAdd", b"Add", b"Relu")),
)


def optimise(graph_def: Any, tensors: Sequence[str], *, bfloat16: bool = False) -> Any:
    """Run TensorFlow's optimiser for the CPU.

    Args:
        graph_def: may hold variables; nothing of their values is needed.
        tensors: what is fed and fetched; these keep their names.
        bfloat16: let convolutions and matrix products compute in bfloat16.
    """
    for node in graph_def.node:
        node.device = _CPU  # the optimiser fuses only what it knows to run on a CPU
    optimisers = ["constfold", "arithmetic", "dependency"]
    optimisers += ["auto_mixed_precision_onednn_bfloat16"] if bfloat16 else []
    result = _run_optimiser(graph_def, tensors, [*optimisers, "remap", "dependency"])
    for node in result.node:
        node.device = ""
    return result


def flatten(graph_def: Any, tensors: Sequence[str]) -> Any:
    """Inline every function call of `graph_def` as far as `tensors` need it."""
    return _run_optimiser(graph_def, tensors, ["function"])


def _run_optimiser(graph_def: Any, tensors: Sequence[str], optimisers: Sequence[str]) -> Any:
    meta_graph = meta_graph_pb2.MetaGraphDef(graph_def=graph_def)
    meta_graph.meta_info_def.tags.append("serve")
    meta_graph.collection_def["train_op"].node_list.value.extend(tensors)
    config = config_pb2.ConfigProto()
    rewriting = config.graph_options.rewrite_options
    rewriting.min_graph_nodes = -1
    rewriting.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    rewriting.optimizers.extend(optimisers)
    breathe()
    return aside(tf_optimizer.OptimizeGraph, config, meta_graph)


def fix_filters(graph: FlatGraph) -> int:
    """Tell oneDNN which filters never change, so that it brings each into its own layout once; how many.

    Nothing is changed where this TensorFlow has no such kernel, or runs without oneDNN.
    """
    if not _pywrap_util_port.IsMklEnabled():
        return 0
    breathe()
    changed = 0
    runs = lru_cache(has_onednn_kernel)
    for node in graph.graph_def.node:
        op = _ONEDNN.get(node.op)
        if op is None or not graph.is_static(node_of(node.input[1])):
            continue
        dtype = node.attr["T"].type
        if dtype not in (types_pb2.DT_FLOAT, types_pb2.DT_BFLOAT16) or not runs(op, dtype):
            continue
        fused = tuple(node.attr["fused_ops"].list.s)
        if (node.op != "Conv2D" and fused not in _ONEDNN_FUSIONS) or (
            "data_format" in node.attr and node.attr["data_format"].s != b"NHWC"
        ):
            continue
        node.op = op
        node.attr["is_filter_const"].b = True
        node.attr["_kernel"].s = _ONEDNN_LABEL.encode()
        changed += 1
    return changed


def has_onednn_kernel(op: str, dtype: int) -> bool:
    """Whether the running TensorFlow can run the oneDNN op `op` on the CPU for a type's number."""
    return any(
        kernel.device_type == "CPU"
        and kernel.label == _ONEDNN_LABEL
        and all(
            dtype in constraint.allowed_values.list.type
            for constraint in kernel.constraint
            if constraint.name == "T"
        )
        for kernel in kernels.get_registered_kernels_for_op(op).kernel
    )
