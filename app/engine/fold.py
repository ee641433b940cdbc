"""Batch normalisation, and whatever else only scales and shifts channels, into convolutions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from tensorflow.core.framework import types_pb2

from app.engine.flat_graph import FlatGraph, ShapeOf, node_of
from app.engine.load_priority import breathe


def fold_normalisation(graph: FlatGraph, shape_of: ShapeOf) -> int:
    """Fold what scales and shifts the channels of convolutions into filters and biases; how many.

    Args:
        graph: changed in place.
        shape_of: the shape of each static tensor.
    """
    breathe()
    consumers = defaultdict(list)
    for node in graph.graph_def.node:
        for key in node.input:
            consumers[node_of(key)].append(node)
    convolutions = [node for node in graph.graph_def.node if _can_fold(graph, node)]
    folded = sum(_fold(graph, node, consumers, shape_of) for node in convolutions)
    breathe()
    return folded


def _can_fold(graph: FlatGraph, node: Any) -> bool:
    return (
        node.op in ("Conv2D", "DepthwiseConv2dNative")
        and node.attr["data_format"].s == b"NHWC"
        and node.attr["T"].type == types_pb2.DT_FLOAT
        and graph.is_static(node_of(node.input[1]))
    )


def _fold(graph: FlatGraph, convolution: Any, consumers: Mapping[str, list[Any]], shape_of: ShapeOf) -> bool:
    """conv(x, w) * a + b to BiasAdd(conv(x, w * a), b), however many steps it takes."""
    shape = shape_of(convolution.input[1])
    if shape is None:
        return False
    depthwise = convolution.op != "Conv2D"
    channels = shape[3] * shape[2] if depthwise else shape[3]
    fold = _Fold(graph, channels, shape_of)
    last = convolution
    while last.name not in graph.fixed and len(consumers[last.name]) == 1:
        (after,) = consumers[last.name]
        if not fold.take(after, last):
            break
        last = after
    if last.name in graph.fixed or fold.bias is None or (last.op == "BiasAdd" and fold.scale is None):
        return False
    if fold.scale is not None:
        # The filter of a depthwise convolution ends with [channels in, multiplier], as its outputs lie.
        scale = graph.reshaped(fold.scale, shape[2:]) if depthwise else fold.scale
        convolution.input[1] = graph.binary("Mul", convolution.input[1], scale)
    for attribute in list(last.attr):
        del last.attr[attribute]
    last.op = "BiasAdd"
    last.input[:] = [convolution.name, fold.bias]
    last.attr["T"].type = types_pb2.DT_FLOAT
    last.attr["data_format"].s = b"NHWC"
    return True


class _Fold:
    """What a chain of operations behind a convolution does to each channel: times `scale` plus `bias`."""

    def __init__(self, graph: FlatGraph, channels: int, shape_of: ShapeOf) -> None:
        self.scale: str | None = None
        self.bias: str | None = None
        self._graph = graph
        self._channels = channels
        self._shape_of = shape_of

    def take(self, node: Any, value: Any) -> bool:
        """Add what `node` does to the output of the node `value`; False if it is something else."""
        if node.op == "Identity":
            return True
        if node.op == "FusedBatchNormV3":
            return self._take_batch_norm(node, value)
        if node.op not in ("Add", "AddV2", "BiasAdd", "Mul") or len(node.input) != 2:
            return False
        others = [key for key in node.input if node_of(key) != value.name]
        if len(others) != 1 or (operand := self._channel_vector(others[0])) is None:
            return False
        if node.op == "Mul":
            self._multiply(operand)
        else:
            self._add(operand)
        return True

    def _take_batch_norm(self, node: Any, value: Any) -> bool:
        vectors = [self._channel_vector(key) for key in node.input[1:5]]
        if (
            node.attr["is_training"].b
            or node.attr["data_format"].s != b"NHWC"
            or node.input[0] not in (value.name, f"{value.name}:0")
            or None in vectors
        ):
            return False
        gamma, beta, mean, variance = (str(vector) for vector in vectors)
        graph = self._graph
        shifted = graph.binary("AddV2", variance, graph.constant(float(node.attr["epsilon"].f)))
        scale = graph.binary("Mul", gamma, graph.rsqrt(shifted))
        self._multiply(scale)
        self._add(graph.binary("Sub", beta, graph.binary("Mul", mean, scale)))
        return True

    def _multiply(self, by: str) -> None:
        self.scale = by if self.scale is None else self._graph.binary("Mul", self.scale, by)
        if self.bias is not None:
            self.bias = self._graph.binary("Mul", self.bias, by)

    def _add(self, operand: str) -> None:
        self.bias = operand if self.bias is None else self._graph.binary("AddV2", self.bias, operand)

    def _channel_vector(self, key: str) -> str | None:
        """The static tensor `key` as a vector with one number a channel, if that is what it is."""
        if not self._graph.is_static(node_of(key)):
            return None
        shape = self._shape_of(key)
        if (
            shape is None
            or not 1 <= len(shape) <= 4
            or math.prod(shape) != shape[-1]
            or shape[-1] != self._channels
        ):
            return None
        return self._graph.as_vector(key, shape, self._shape_of)
