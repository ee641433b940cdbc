"""What a signature's graph holds: found by reading the file, without TensorFlow and without a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from app.engine import dtypes

# Savers use Save and Restore ops too; they are not behind any signature.
FILE_OPS = frozenset(
    (
        *("ReadFile", "WriteFile", "MatchingFiles", "WholeFileReader", "WholeFileReaderV2"),
        *("TextLineReader", "TextLineReaderV2", "FixedLengthRecordReader", "FixedLengthRecordReaderV2"),
        *("TFRecordReader", "TFRecordReaderV2", "LMDBReader", "TextLineDataset", "TFRecordDataset"),
        *("TFRecordDatasetV2", "FixedLengthRecordDataset", "FixedLengthRecordDatasetV2", "LMDBDataset"),
        *("SqlDataset", "CSVDataset", "CSVDatasetV2", "CacheDataset", "CacheDatasetV2", "LoadDataset"),
        *("SaveDataset", "SaveDatasetV2", "SnapshotDataset", "SnapshotDatasetV2", "LoadAndRemapMatrix"),
        *("InitializeTableFromTextFile", "InitializeTableFromTextFileV2", "GenerateVocabRemapping"),
        *("CreateSummaryFileWriter", "Save", "SaveSlices", "SaveV2", "Restore", "RestoreSlice", "RestoreV2"),
        *("MergeV2Checkpoints", "PrintV2", "PyFunc", "PyFuncStateless", "EagerPyFunc"),
    )
)
_IMAGE_OPS = frozenset(("DecodeImage", "DecodeJpeg", "DecodePng", "DecodeBmp", "DecodeGif", "DecodeWebP"))
_PARSERS = frozenset(("ParseExample", "ParseExampleV2", "ParseSingleExample"))


@dataclass(frozen=True)
class Feature:
    """A feature that a graph parses from a tf.Example.

    Attributes:
        name: its key.
        kind: `float`, `int64` or `bytes`.
        count: how many values it has to have.
    """

    name: str
    kind: str
    count: int


@dataclass(frozen=True)
class Facts:
    """What stands behind some tensors.

    Attributes:
        file_ops: ops that read or write files, sorted.
        features: of the tf.Examples that are parsed, sorted by name.
        decodes_images: whether strings are decoded as pictures.
    """

    file_ops: tuple[str, ...] = ()
    features: tuple[Feature, ...] = ()
    decodes_images: bool = False


class Graph:
    """The graph of a meta graph, to walk backwards."""

    def __init__(self, meta_graph: Any) -> None:
        """Index nodes and functions by name."""
        graph_def = meta_graph.graph_def
        self._nodes = {node.name: node for node in graph_def.node}
        self._functions = {function.signature.name: function for function in graph_def.library.function}

    def has(self, tensor: str) -> bool:
        """Whether the node of `tensor`, such as `x:0`, is there."""
        return node_name(tensor) in self._nodes

    def facts(self, tensors: Iterable[str]) -> Facts:
        """What has to run for `tensors`; bodies of functions count as a whole."""
        ops: set[str] = set()
        features: dict[str, Feature] = {}
        for node, scope in self._behind(tensors):
            ops.add(node.op)
            if node.op in _PARSERS:
                features.update((feature.name, feature) for feature in _features(node, scope))
        return Facts(
            tuple(sorted(ops & FILE_OPS)),
            tuple(features[name] for name in sorted(features)),
            not ops.isdisjoint(_IMAGE_OPS),
        )

    def _behind(self, tensors: Iterable[str]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
        """Every node behind `tensors` with the nodes of its graph or function, by name."""
        pending = [node_name(tensor) for tensor in tensors]
        seen: set[str] = set()
        called: set[str] = set()
        while pending:
            name = pending.pop()
            if name in seen or name not in self._nodes:
                continue
            seen.add(name)
            node = self._nodes[name]
            pending.extend(map(node_name, node.input))
            yield node, self._nodes
            yield from self._inside(node, called)

    def _inside(self, node: Any, called: set[str]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
        pending = [node]
        while pending:
            caller = pending.pop()
            names = [caller.op]
            for attribute in caller.attr.values():
                names += [attribute.func.name, *(function.name for function in attribute.list.func)]
            for name in names:
                if name not in self._functions or name in called:
                    continue
                called.add(name)
                scope = {inner.name: inner for inner in self._functions[name].node_def}
                pending.extend(scope.values())
                for inner in scope.values():
                    yield inner, scope


def node_name(tensor: str) -> str:
    """The node of a tensor's name: of `x:0`, of a control input `^x`, of a function's `x:output:0`."""
    return tensor.removeprefix("^").partition(":")[0]


def _features(node: Any, scope: Mapping[str, Any]) -> Iterator[Feature]:
    """The features that a parser reads; none whose names are not constants."""
    attributes = node.attr
    if node.op == "ParseSingleExample":
        dense, others = list(attributes["dense_keys"].list.s), list(attributes["sparse_keys"].list.s)
    elif node.op == "ParseExample":
        sparse = attributes["Nsparse"].i
        keys = [_strings(name, scope) for name in node.input[2 : 2 + sparse + attributes["Ndense"].i]]
        others, dense = [*chain(*keys[:sparse])], [*chain(*keys[sparse:])]
    else:
        others, dense, ragged = (_strings(name, scope) for name in node.input[2:5])
        others = [*others, *ragged]
    shapes = attributes["dense_shapes"].list.shape
    for key, number, shape in zip(dense, attributes["Tdense"].list.type, shapes, strict=False):
        count = math.prod(max(1, dim.size) for dim in shape.dim)
        yield Feature(key.decode(errors="replace"), _kind(number), count)
    types = [*attributes["sparse_types"].list.type, *attributes["ragged_value_types"].list.type]
    for key, number in zip(others, types, strict=False):
        yield Feature(key.decode(errors="replace"), _kind(number), 1)


def _kind(number: int) -> str:
    name = dtypes.from_number(number).name
    return name if name in ("float", "int64") else "bytes"


def _strings(tensor: str, scope: Mapping[str, Any]) -> list[bytes]:
    """The values of a string constant; none if it is something else."""
    node = scope.get(node_name(tensor))
    while node is not None and node.op == "Identity" and node.input:
        node = scope.get(node_name(node.input[0]))
    if node is None or node.op != "Const":
        return []
    proto = node.attr["value"].tensor
    # Here, not above: only this needs the codec of tensors.
    from app.api.tensor_proto import to_array

    return [bytes(value) for value in to_array(proto).ravel()]
