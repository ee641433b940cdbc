"""Refuses inputs that would end the process: TensorFlow's convolutions abort on too few dimensions.

TensorFlow does not compare what is fed with a placeholder's shape, and inputs with other dimensions than
declared may be fine: a model that begins with a reshape takes them. So shape inference is asked, which
follows them through the graph to every convolution.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import tensorflow as tf

from app.engine.dtypes import Array
from app.engine.signature import Signature, TensorSpec
from app.errors import invalid_argument

# The ops that abort; with more dimensions than they take, they may also answer with anything.
_CONVOLUTIONS = frozenset(("Conv2D", "Conv3D", "DepthwiseConv2dNative"))
# Combinations of ranks whose answers are kept: an inference takes some 50 ms.
_KEPT = 256


class RankGuard:
    """Looks at inputs whose number of dimensions is not the declared one."""

    def __init__(self, graph: Any, signatures: Iterable[Signature]) -> None:
        """Guard the inputs of `signatures` in the `tf.Graph` `graph`."""
        self._specs = {spec.tensor: spec for signature in signatures for spec in signature.inputs.values()}
        self._ranks = {
            tensor: None if spec.shape is None else len(spec.shape) for tensor, spec in self._specs.items()
        }
        self._fault = lru_cache(maxsize=_KEPT)(partial(_fault, graph, self._specs))

    def check(self, feeds: Sequence[str], values: Sequence[Array]) -> None:
        """Refuse what the graph cannot take.

        Args:
            feeds: the names of tensors.
            values: what is to be fed, for each.

        Raises:
            ServingError: INVALID_ARGUMENT, with what TensorFlow's shape inference says.
        """
        for tensor, value in zip(feeds, values, strict=True):
            if value.ndim != self._ranks.get(tensor):
                break
        else:
            return
        if fault := self._fault(tuple(feeds), tuple(value.ndim for value in values)):
            found = ", ".join(
                f"{self._alias(tensor)} {list(value.shape)}"
                for tensor, value in zip(feeds, values, strict=True)
            )
            raise invalid_argument(f"The model cannot take inputs of these shapes: {found}. {fault}")

    def _alias(self, tensor: str) -> str:
        spec = self._specs.get(tensor)
        return spec.alias if spec else tensor


def has_convolutions(graph_def: Any) -> bool:
    """Whether there are any in a GraphDef or its functions."""
    functions = (function.node_def for function in graph_def.library.function)
    return any(node.op in _CONVOLUTIONS for nodes in (graph_def.node, *functions) for node in nodes)


def _fault(
    graph: Any, specs: Mapping[str, TensorSpec], feeds: tuple[str, ...], ranks: tuple[int, ...]
) -> str | None:
    """What shape inference says against feeds with so many dimensions; None if it finds nothing."""
    graph_def = graph.as_graph_def()
    with tf.Graph().as_default():
        fed = {
            tensor: tf.compat.v1.placeholder(specs[tensor].dtype.number, [None] * rank)
            for tensor, rank in zip(feeds, ranks, strict=True)
            if tensor in specs
        }
        try:
            tf.graph_util.import_graph_def(graph_def, input_map=fed, name="")
        except ValueError as error:
            # What follows are the node's inputs and attributes.
            return str(error).splitlines()[0].partition(" = ")[0].removesuffix("'") + "'"
    return None
