"""What follows from weights and constants alone, computed once with NumPy.

A session would optimise its whole graph for each such computation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import tensor_util

from app.engine.dtypes import Array

# Below this a value is kept: shapes and normalisation are asked for more than once.
_KEPT_BYTES = 64 * 1024
# TensorFlow's own.
_ALIGNMENT = 64

_FLOAT_TYPES = frozenset((tf.float32, tf.float64, tf.bfloat16, tf.half))


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Memory that TensorFlow takes over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    offset = -room.ctypes.data % _ALIGNMENT
    return room[offset : offset + size].view(dtype).reshape(shape)


def aligned(value: Array) -> Array:
    """`value`, copied if need be to where TensorFlow takes it over without another copy."""
    if value.ctypes.data % _ALIGNMENT == 0 and value.flags.c_contiguous:
        return value
    result = aligned_empty(value.shape, value.dtype)
    result[...] = value
    return result


def _multiply(_: Any, left: Array, right: Array) -> Array:
    # What filters are folded with: made in place, as they are the bulk of the weights.
    result = aligned_empty(np.broadcast_shapes(left.shape, right.shape), left.dtype)
    return np.multiply(left, right, out=result)


def _squeeze(node: Any, value: Array) -> Array:
    axes = tuple(node.attr["squeeze_dims"].list.i)
    return np.squeeze(value, axes or None)


_COMPUTED: dict[str, Callable[..., Array]] = {
    "Add": lambda _, left, right: left + right,
    "AddV2": lambda _, left, right: left + right,
    "Sub": lambda _, left, right: left - right,
    "Mul": _multiply,
    "RealDiv": lambda _, left, right: left / right,
    "Maximum": lambda _, left, right: np.maximum(left, right),
    "Minimum": lambda _, left, right: np.minimum(left, right),
    "Neg": lambda _, value: -value,
    "Sqrt": lambda _, value: np.sqrt(value),
    "Square": lambda _, value: value * value,
    "Rsqrt": lambda _, value: (1 / np.sqrt(value)).astype(value.dtype),
    "Cast": lambda node, value: value.astype(tf.as_dtype(node.attr["DstT"].type).as_numpy_dtype),
    "Identity": lambda _, value: value,
    "Reshape": lambda _, value, shape: value.reshape(shape),
    "Squeeze": _squeeze,
    "ExpandDims": lambda _, value, axis: np.expand_dims(value, int(axis.reshape(()))),
    "Transpose": lambda _, value, order: value.transpose(order),
}
_OF_FLOATS = frozenset(
    ("Add", "AddV2", "Sub", "Mul", "RealDiv", "Maximum", "Minimum", "Neg", "Sqrt", "Square", "Rsqrt", "Cast")
)


def can_compute(node: Any) -> bool:
    """Whether a node's value can be computed here, as TensorFlow would, from the values of its inputs."""
    if node.op in ("Const", "NoOp"):
        return True
    if node.op in _OF_FLOATS:
        types = [node.attr[name].type for name in ("T", "SrcT", "DstT") if name in node.attr]
        return all(number and tf.as_dtype(number) in _FLOAT_TYPES for number in types)
    return node.op in _COMPUTED


def stand_in(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array that takes no memory, where only shape and type matter."""
    return np.broadcast_to(np.zeros((), dtype), shape)


class StaticValues:
    """The values of a graph's static tensors."""

    def __init__(
        self, node: Callable[[str], Any], variables: Mapping[str, Array], *, shapes_only: bool = False
    ) -> None:
        """Compute from `variables`, the values by the name of their VarHandleOp.

        Args:
            node: the NodeDef of a name.
            variables: what their ReadVariableOps give.
            shapes_only: whether only shapes and types have to be right; `variables` are then `stand_in`s.
        """
        self._node = node
        self._variables = variables
        self._shapes_only = shapes_only
        self._kept: dict[str, Array] = {}

    def __call__(self, key: str) -> Array:
        """The value of the input or tensor `key`, which must be static."""
        name = key.removesuffix(":0")
        if name in self._kept:
            return self._kept[name]
        value = self._compute(self._node(name))
        if value.nbytes <= _KEPT_BYTES:
            self._kept[name] = value
        return value

    def _compute(self, node: Any) -> Array:
        if node.op == "VarHandleOp":
            return self._variables[node.name]
        if node.op == "Const":
            return np.asarray(tensor_util.MakeNdarray(node.attr["value"].tensor))
        if node.op == "ReadVariableOp":
            return self(node.input[0])
        inputs = [self(key) for key in node.input if not key.startswith("^")]
        if self._shapes_only and node.op in _OF_FLOATS:
            number = node.attr["DstT" if node.op == "Cast" else "T"].type
            shape = np.broadcast_shapes(*(value.shape for value in inputs))
            return stand_in(shape, np.dtype(tf.as_dtype(number).as_numpy_dtype))
        with np.errstate(all="ignore"):  # NaN and infinity are results, as in TensorFlow
            return np.asarray(_COMPUTED[node.op](node, *inputs))
