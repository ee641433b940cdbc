"""Which graphs must not be rewritten, because more depends on their runs than the answers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from app.engine.flat_graph import called_functions, node_of
from app.engine.load_priority import breathe

_HARMLESS = frozenset(
    (
        *("VarHandleOp", "ReadVariableOp", "ResourceGather", "ResourceGatherNd", "Assert", "Placeholder"),
        *("StatefulPartitionedCall", "If", "While", "Case"),
    )
)
# Ops of the models with which the rewrite is tested: a mistake in a kernel or in TensorFlow's optimiser that
# ends the process must not be met for the first time in a running server.
_TRIED = frozenset(
    (
        *("Abs", "Add", "AddV2", "AddN", "AvgPool", "BatchMatMulV2", "BiasAdd", "BroadcastTo", "Cast"),
        *("ConcatV2", "Const", "Conv2D", "Cumsum", "DecodeImage", "DenseBincount", "DepthwiseConv2dNative"),
        *("DivNoNan", "Einsum", "Elu", "EnsureShape", "Equal", "Erfc", "Exp", "ExpandDims", "Fill"),
        *("FusedBatchNormV3", "GatherV2", "Greater", "GreaterEqual", "Identity", "IdentityN", "Less"),
        *("LessEqual", "LogicalAnd", "LogicalOr", "MatMul", "Max", "MaxPool", "Maximum", "Mean", "Min"),
        *("Minimum", "Mul", "Neg", "NoOp", "NotEqual", "OnesLike", "Pack", "Pad", "PartitionedCall"),
        *("PlaceholderWithDefault", "Prod", "Range", "RealDiv", "Relu", "Relu6", "Reshape"),
        *("ResizeBilinear", "Rsqrt", "Select", "SelectV2", "Shape", "Sigmoid", "Size", "Slice", "Softmax"),
        *("Split", "Sqrt", "Square", "SquaredDifference", "Squeeze", "StaticRegexReplace", "StatelessIf"),
        *("StatelessWhile", "StopGradient", "StridedSlice", "StringLower", "StringSplitV2"),
        *("StringToHashBucketFast", "Sub", "Sum", "Tanh", "TensorListFromTensor", "TensorListGetItem"),
        *("TensorListReserve", "TensorListSetItem", "TensorListStack", "Tile", "TopKV2", "Transpose"),
        *("UnsortedSegmentSum", "Where", "ZerosLike"),
    )
)
_WRITES = ("Assign", "ResourceScatter", "ResourceApply", "ResourceSparseApply", "Scatter")
_SIDE_EFFECTS = frozenset(("Print", "PrintV2", "WriteFile", "PyFuncStateless"))


def obstacle(graph_def: Any) -> str | None:
    """Why the graph must stay as it is: state, randomness, side effects. None if it may be rewritten."""
    breathe()
    functions = {function.signature.name for function in graph_def.library.function}
    for op in ops_of(graph_def):
        definition = op_def_registry.get(op)
        if definition is None and op not in functions:
            return f"it uses the op {op}, which TensorFlow does not describe"
        if op in _HARMLESS or definition is None:
            continue
        if op.startswith(_WRITES) and (definition.is_stateful or definition.input_arg[0].is_ref):
            return f"it writes variables ({op})"
        if "Table" in op:
            return f"it has tables ({op})"
        if op in _SIDE_EFFECTS or definition.is_stateful:
            return f"it has state or effects of its own ({op})"
        if op not in _TRIED:
            return f"it uses the op {op}, with which this was never tried"
    return None


def fault(graph_def: Any) -> str | None:
    """What is wrong with a rewritten graph that has no functions; None if it can be imported.

    A graph that TensorFlow takes and cannot run may end the process.
    """
    breathe()
    names = [node.name for node in graph_def.node]
    known = set(names)
    if len(known) < len(names):
        return "two nodes have one name"
    for node in graph_def.node:
        definition = op_def_registry.get(node.op)
        if definition is None:
            return f"{node.name} has the unknown op {node.op}"
        for attribute in definition.attr:
            if not attribute.HasField("default_value") and attribute.name not in node.attr:
                return f"{node.name} lacks the attribute {attribute.name}"
        for key in node.input:
            if node_of(key) not in known:
                return f"{node.name} needs {key}, which is not there"
    return None


def ops_of(graph_def: Any) -> dict[str, None]:
    """Every op of the graph's nodes and of the functions that they call."""
    called = called_functions(graph_def.node, graph_def.library)
    nodes = [*graph_def.node, *itertools.chain.from_iterable(function.node_def for function in called)]
    return dict.fromkeys(node.op for node in reversed(nodes))


def bytes_of(node: Any) -> int:
    """The size of a variable; 0 for other nodes and unknown shapes."""
    shape = node.attr["shape"].shape
    if node.op != "VarHandleOp" or shape.unknown_rank or any(dim.size < 0 for dim in shape.dim):
        return 0
    sizes: list[int] = [dim.size for dim in shape.dim]
    return math.prod(sizes) * int(tf.as_dtype(node.attr["dtype"].type).size)
