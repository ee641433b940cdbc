"""Which graphs must not be rewritten, because more depends on their runs than the answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

_HARMLESS = frozenset(
    (
        *("VarHandleOp", "ReadVariableOp", "ResourceGather", "ResourceGatherNd", "Assert", "Placeholder"),
        *("StatefulPartitionedCall", "If", "While", "Case"),
    )
)
_SIDE_EFFECTS = frozenset(("Print", "PrintV2", "WriteFile", "PyFuncStateless"))
_WRITES = ("Assign", "ResourceScatter", "ResourceApply", "ResourceSparseApply", "Scatter")


def obstacle(graph_def: Any) -> str | None:
    """Why the graph must stay as it is: state, randomness, side effects. None if it may be rewritten."""
    functions = {function.signature.name: function for function in graph_def.library.function}
    for op in _ops(graph_def.node, functions):
        definition = op_def_registry.get(op)
        if definition is None and op not in functions:
            return f"it uses the op {op}, which TensorFlow does not describe"
        if op in _HARMLESS or definition is None:
            continue
        if op.startswith(
            ("Assign", "ResourceScatter", "ResourceApply", "ResourceSparseApply", "Scatter")
        ) and (definition.is_stateful or definition.input_arg[0].is_ref):
            return f"it writes variables ({op})"
        if "Table" in op:
            return f"it has tables ({op})"
        if op in _SIDE_EFFECTS or definition.is_stateful:
            return f"it has state or effects of its own ({op})"
    return None


def _ops(nodes: Iterable[Any], functions: Mapping[str, Any]) -> Iterator[str]:
    """Every op of `nodes` and of the functions that they call, each once."""
    pending, called, seen = [*nodes], set[str](), set[str]()
    while pending:
        node = pending.pop()
        if node.op not in seen:
            seen.add(node.op)
            yield node.op
        names = [node.op]
        for attribute in node.attr.values():
            names += [attribute.func.name, *(function.name for function in attribute.list.func)]
        for name in names:
            if name in functions and name not in called:
                called.add(name)
                pending.extend(functions[name].node_def)


def bytes_of(node: Any) -> int:
    """The size of a variable; 0 for other nodes and unknown shapes."""
    shape = node.attr["shape"].shape
    if node.op != "VarHandleOp" or shape.unknown_rank or any(dim.size < 0 for dim in shape.dim):
        return 0
    sizes: list[int] = [dim.size for dim in shape.dim]
    return math.prod(sizes) * int(tf.as_dtype(node.attr["dtype"].type).size)
