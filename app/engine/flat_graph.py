"""A graph without function calls, what in it follows from weights alone, and changes to it in place."""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, types_pb2
from tensorflow.python.framework import tensor_util

from app.engine import static_values
from app.engine.dtypes import Array

ShapeOf = Callable[[str], tuple[int, ...] | None]

_BRANCHES = frozenset(("Switch", "RefSwitch", "Enter", "NextIteration", "LoopCond"))
_WAYS_OUT = frozenset(("Exit", "Merge"))
_READS = "ReadVariableOp"


class FlatGraph:
    """A GraphDef without function calls, to be changed in place.

    Attributes:
        graph_def: the graph.
        fixed: the nodes that are fed or fetched.
    """

    def __init__(self, graph_def: Any, tensors: Iterable[str]) -> None:
        """Take over `graph_def`; the nodes of `tensors` are fed or fetched and stay as they are."""
        self.fixed = {node_of(tensor) for tensor in tensors}
        self._numbers = itertools.count()
        self._read(graph_def)

    def _read(self, graph_def: Any) -> None:
        """Work out what is known of `graph_def`."""
        self.graph_def = graph_def
        self._nodes: dict[str, Any] = {node.name: node for node in graph_def.node}
        self._static: dict[str, bool] = {}
        self._inside = self._inside_branches()

    def node(self, name: str) -> Any:
        """The NodeDef `name`."""
        return self._nodes[name]

    def is_static(self, name: str) -> bool:
        """Whether the node's outputs are the same in every run: computed from weights and constants."""
        pending = [name]
        while pending:
            current = pending[-1]
            node = self._nodes.get(current)
            if current in self._static:
                pending.pop()
            elif node is None or current in self.fixed:
                self._static[current] = False
            elif node.op == _READS:
                self._static[current] = self.variable_of(current) is not None
            elif not static_values.can_compute(node):
                self._static[current] = False
            else:
                inputs = self._inputs_that_matter(node)
                unknown = [key for key in inputs if key not in self._static]
                if unknown:
                    pending.extend(unknown)
                    continue
                self._static[current] = all(self._static[key] for key in inputs)
        return self._static[name]

    def _inputs_that_matter(self, node: Any) -> list[str]:
        """Inputs that decide whether a node is static: control inputs only where they say in which branch."""
        return [node_of(key) for key in node.input if not key.startswith("^") or node_of(key) in self._inside]

    def _inside_branches(self) -> set[str]:
        """The nodes that run within an inlined condition or loop."""
        inside = {node.name for node in self.graph_def.node if node.op in _BRANCHES}
        if not inside:
            return inside
        consumers = defaultdict(list)
        for node in self.graph_def.node:
            for key in node.input:
                consumers[node_of(key)].append(node)
        pending = list(inside)
        while pending:
            for node in consumers[pending.pop()]:
                if node.name not in inside and node.op not in _WAYS_OUT:
                    inside.add(node.name)
                    pending.append(node.name)
        return inside

    def variable_of(self, name: str) -> str | None:
        """The VarHandleOp that the ReadVariableOp `name` reads, if that is certain."""
        node = self._nodes[name]
        while node.op in (_READS, "Identity"):
            node = self._nodes.get(node_of(node.input[0]))
            if node is None:
                return None
        return str(node.name) if node.op == "VarHandleOp" else None

    def frontier(self) -> list[str]:
        """The static tensors that a run needs and that are not read straight from a variable or constant."""
        found = dict[str, None]()
        for node in self.graph_def.node:
            if self.is_static(node.name):
                continue
            for key in node.input:
                name = node_of(key)
                if (
                    not key.startswith("^")
                    and self.is_static(name)
                    and self._nodes[name].op not in (*("Const", _READS),)
                ):
                    found[key if ":" in key else f"{key}:0"] = None
        return list(found)

    def replace_by_variables(self, values: Mapping[str, Array]) -> dict[str, str]:
        """Read tensors from new variables; then drop whatever nothing needs.

        Args:
            values: by tensor of `frontier`, what has its shape and type.

        Returns:
            The names of the new VarHandleOps, by tensor.
        """
        renamed, variables = {}, {}
        for tensor, value in values.items():
            handle = self._add(f"{self._new_name()}/variable", "VarHandleOp", [])
            node = self._add(f"{handle.name}/read", _READS, [handle.name])
            handle.attr["dtype"].type = node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
            handle.attr["shape"].shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
            handle.attr["shared_name"].s = handle.name.encode()
            renamed[tensor] = node.name
            variables[tensor] = str(handle.name)
        for node in self.graph_def.node:
            for index, key in enumerate(node.input):
                node.input[index] = renamed.get(key if ":" in key else f"{key}:0", key)
        self.prune()
        return variables

    def share(self) -> None:
        """Let signatures share what each computes from the same weights: the first of equal nodes stays."""
        same: dict[str, str] = {}
        first: dict[Any, str] = {}
        for name in self._static_nodes():
            node = self._nodes[name]
            inputs = [_renamed(key, same) for key in node.input if not key.startswith("^")]
            if node.op == _READS:
                inputs = [str(self.variable_of(name))]
            attributes = {key: node.attr[key].SerializeToString(deterministic=True) for key in node.attr}
            kind = (node.op, tuple(inputs), tuple(sorted(attributes.items())))
            same[name] = first.setdefault(kind, name)
        for node in self.graph_def.node:
            node.input[:] = [key if key.startswith("^") else _renamed(key, same) for key in node.input]
        self.prune()

    def _static_nodes(self) -> Iterator[str]:
        """The static nodes that are not fed or fetched, each after its inputs."""
        done: set[str] = set()
        pending = [node.name for node in self.graph_def.node]
        while pending:
            name = pending[-1]
            if name in done or not self.is_static(name):
                pending.pop()
                continue
            keys = [] if self._nodes[name].op == _READS else self._nodes[name].input
            ahead = [node_of(key) for key in keys if not key.startswith("^") and node_of(key) not in done]
            if ahead:
                pending.extend(ahead)
            else:
                done.add(pending.pop())
                yield name

    def variables_under(self, tensors: Iterable[str]) -> frozenset[str]:
        """The names of the VarHandleOps that `tensors` are computed from."""
        needed = self._nodes_under(map(node_of, tensors))
        return frozenset(name for name in needed if self._nodes[name].op == "VarHandleOp")

    def _nodes_under(self, names: Iterable[str]) -> set[str]:
        needed: set[str] = set()
        pending = list(names)
        while pending:
            name = pending.pop()
            if name not in needed and name in self._nodes:
                needed.add(name)
                pending.extend(map(node_of, self._nodes[name].input))
        return needed

    def prune(self) -> None:
        """Drop what is not needed for the fixed nodes, and waits for what is static."""
        for node in self.graph_def.node:
            if "_class" in node.attr:  # places it beside a node that may not be there any more
                del node.attr["_class"]
            kept = [key for key in node.input if not (key.startswith("^") and self.is_static(key[1:]))]
            if len(kept) != len(node.input):
                node.input[:] = kept
            if node.op == _READS and (handle := self.variable_of(node.name)) is not None:
                node.input[0] = handle  # without what function calls have left in between
        needed = self._nodes_under(self.fixed)
        kept_nodes = [node for node in self.graph_def.node if node.name in needed]
        pruned = graph_pb2.GraphDef(node=kept_nodes, versions=self.graph_def.versions)
        pruned.library.function.extend(called_functions(kept_nodes, self.graph_def.library))
        self._read(pruned)  # names go on where they were: a new node must not get that of an older one

    def fingerprint(self) -> str:
        """The same for graphs that differ in names and weights only, as versions of a model do."""
        found = hashlib.sha256()
        for node in self.graph_def.node:
            shape = node.attr["shape"].shape.SerializeToString() if node.op == "VarHandleOp" else b""
            found.update(f"{node.op} {len(node.input)} {shape!r}\n".encode())
        return found.hexdigest()

    def variables(self) -> list[Any]:
        """The VarHandleOp nodes."""
        return [node for node in self.graph_def.node if node.op == "VarHandleOp"]

    def reshaped(self, tensor: str, shape: Sequence[int]) -> str:
        """A float tensor in another shape."""
        node = self._add(self._new_name(), "Reshape", [tensor, self.constant(list(shape))])
        node.attr["T"].type = types_pb2.DT_FLOAT
        node.attr["Tshape"].type = types_pb2.DT_INT32
        return str(node.name)

    def as_vector(self, key: str, shape: Sequence[int], shape_of: ShapeOf) -> str:
        """A float tensor with one axis that matters as a vector: what it was made from, if that is one."""
        node = self._nodes[node_of(key)]
        while len(shape) > 1 and node.op in ("Reshape", "Squeeze", "ExpandDims", "Identity"):
            key = str(node.input[0])
            made_from = shape_of(key)
            if made_from is None:
                break
            shape, node = made_from, self._nodes[node_of(key)]
        return key if len(shape) == 1 else self.reshaped(key, [-1])

    def binary(self, op: str, left: str, right: str) -> str:
        """`op` of two float tensors."""
        node = self._add(self._new_name(), op, [left, right])
        node.attr["T"].type = types_pb2.DT_FLOAT
        return str(node.name)

    def rsqrt(self, tensor: str) -> str:
        """1 / sqrt(tensor)."""
        node = self._add(self._new_name(), "Rsqrt", [tensor])
        node.attr["T"].type = types_pb2.DT_FLOAT
        return str(node.name)

    def constant(self, value: Any) -> str:
        """A float constant, or int32s."""
        node = self._add(self._new_name(), "Const", [])
        dtype = types_pb2.DT_FLOAT if isinstance(value, float) else types_pb2.DT_INT32
        node.attr["dtype"].type = dtype
        node.attr["value"].tensor.CopyFrom(tensor_util.make_tensor_proto(value, dtype))
        return str(node.name)

    def _new_name(self) -> str:
        name = f"folded_{next(self._numbers)}"
        return name if name not in self._nodes else self._new_name()

    def _add(self, name: str, op: str, inputs: Sequence[str]) -> Any:
        node = self.graph_def.node.add(name=name, op=op, input=inputs)
        self._nodes[name] = node
        return node


def called_functions(nodes: Iterable[Any], library: Any) -> list[Any]:
    """The functions of `library` that `nodes` call, and those that these call."""
    functions = {function.signature.name: function for function in library.function}
    pending, called = list(nodes), dict[str, Any]()
    while pending:
        node = pending.pop()
        names = [node.op]
        for attribute in node.attr.values():
            names += [attribute.func.name, *(function.name for function in attribute.list.func)]
        for name in names:
            if name in functions and name not in called:
                called[name] = functions[name]
                pending.extend(functions[name].node_def)
    return list(called.values())


def _renamed(key: str, names: Mapping[str, str]) -> str:
    name, colon, output = key.partition(":")
    return f"{names.get(name, name)}{colon}{output}"


def node_of(key: str) -> str:
    """The node of an input or tensor name: `a:0`, `^a` and `a` all lie at node `a`."""
    return key.removeprefix("^").partition(":")[0]
