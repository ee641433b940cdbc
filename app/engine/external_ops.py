"""Which ops of a SavedModel can reach outside it: a model is a program, and runs with the server's rights.

What counts is what can run: the signatures, the initialisation and the restore of variables, with all
functions that they use. The functions that save a model again are in every SavedModel and never run here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework import op_def_registry

from app.errors import Code, ServingError

logger = logging.getLogger(__name__)

_TABLE_FILES = {"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"}
_VERSIONED = ("", "V2", "V3", "V4")
_REACHES: Mapping[str, Sequence[str]] = {
    "reads files": (
        *("ReadFile", "MatchingFiles", "WholeFileReader", "TextLineReader", "TFRecordReader"),
        *("FixedLengthRecordReader", "LMDBReader", "RecordInput", "ImmutableConst", "LoadAndRemapMatrix"),
        *("TFRecordDataset", "TextLineDataset", "FixedLengthRecordDataset", "CSVDataset", "LMDBDataset"),
        *("SqlDataset", "MatchingFilesDataset", "LoadDataset", "SnapshotDatasetReader"),
        *("SnapshotNestedDatasetReader", "SnapshotChunkDataset", "ListSnapshotChunksDataset"),
        *("ExperimentalCSVDataset", "ExperimentalLMDBDataset", "ExperimentalSqlDataset"),
        *("ExperimentalMatchingFilesDataset", "Restore", "RestoreSlice", "DTensorRestore"),
        *("GenerateVocabRemapping", "InitializeTableFromTextFile"),
    ),
    "writes files": (
        *("WriteFile", "Save", "SaveSlices", "MergeV2Checkpoints", "SaveDataset", "DistributedSave"),
        *("DatasetToTFRecord", "ExperimentalDatasetToTFRecord", "CacheDataset", "SnapshotDataset"),
        *("CreateSummaryFileWriter", "CreateSummaryDbWriter", "DumpTensor", "DebugIdentity", "DebugNanCount"),
        *("DebugNumericSummary", "CalibrationStatisticsSaver", "FileSystemSetConfiguration"),
    ),
    "uses the network": (
        *("Send", "Recv", "_Send", "_Recv", "_HostSend", "_HostRecv", "RemoteCall", "RpcClient", "RpcCall"),
        *("RpcServer", "RpcServerStart", "RpcServerRegister", "RpcGetValue", "DataServiceDataset"),
        *("RegisterDataset", "RemoteFusedGraphExecute", "ConfigureDistributedTPU"),
        *("CollectiveReduce", "CollectiveGather", "CollectiveBcastSend", "CollectiveBcastRecv"),
    ),
    "runs Python": ("PyFunc", "PyFuncStateless", "EagerPyFunc"),
    "writes to the log or a file": ("Print",),
}
_REACH_OF = {
    name + version: reach for reach, names in _REACHES.items() for name in names for version in _VERSIONED
}
_UNKNOWN = "is not known"


def check_external_ops(meta_graph: Any, path: str, *, refuse: bool) -> None:
    """Log the ops of `meta_graph` that reach outside it, in one line; nothing for a model without.

    Args:
        meta_graph: a MetaGraphDef.
        path: of the version, for texts.
        refuse: raise instead.

    Raises:
        ServingError: FAILED_PRECONDITION if there are such ops and they are to be refused.
    """
    found = external_ops(meta_graph)
    if not found:
        return
    told = "; ".join(f"{reach}: {', '.join(names)}" for reach, names in found.items())
    if refuse:
        raise ServingError(
            Code.FAILED_PRECONDITION,
            f"The model in {path} has ops that reach outside it ({told}), and "
            "--refuse_models_with_external_ops is set. Export it without them, or serve it contained and "
            "without the flag.",
        )
    logger.warning("The model in %s has ops that reach outside it: %s.", path, told)


def external_ops(meta_graph: Any) -> dict[str, list[str]]:
    """What the ops of `meta_graph` that can run do outside it, each with the ops' names, sorted."""
    walk = _Walk(meta_graph)
    walk.fetch(_entries(meta_graph))
    restore = meta_graph.saver_def.restore_op_name
    if restore:
        walk.fetch([restore], restores=True)
    found: dict[str, list[str]] = {}
    for reach, name in sorted((_REACH_OF.get(name, _UNKNOWN), name) for name in walk.ops):
        found.setdefault(reach, []).append(name)
    return found


def _entries(meta_graph: Any) -> Iterable[str]:
    """The tensors and ops that a server can be made to run."""
    for signature in meta_graph.signature_def.values():
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            sparse = info.coo_sparse
            yield from (sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name)
            yield info.name
            yield from (part.name for part in info.composite_tensor.components)
    for key in ("saved_model_main_op", "legacy_init_op"):
        yield from meta_graph.collection_def[key].node_list.value if key in meta_graph.collection_def else ()


def _assets(meta_graph: Any) -> Iterable[Any]:
    """The model's own files; TF1 exports keep them in a collection."""
    yield from meta_graph.asset_file_def
    if "saved_model_assets" in meta_graph.collection_def:
        for value in meta_graph.collection_def["saved_model_assets"].any_list.value:
            yield meta_graph_pb2.AssetFileDef.FromString(value.value)


class _Walk:
    """Goes from fetches to all that they run.

    Attributes:
        ops: what was found.
    """

    def __init__(self, meta_graph: Any) -> None:
        self.ops: set[str] = set()
        self._nodes = {node.name: node for node in meta_graph.graph_def.node}
        self._functions = {
            function.signature.name: function for function in meta_graph.graph_def.library.function
        }
        self._assets = {_node(asset.tensor_info.name) for asset in _assets(meta_graph)}
        self._assets |= self._asset_variables()
        self._called: set[tuple[object, ...]] = set()
        self._fetched: set[str] = set()

    def _asset_variables(self) -> set[str]:
        """The variables in which TF2 exports keep the paths of assets, and nothing else."""
        values: dict[str, list[bool]] = {}
        for node in self._nodes.values():
            if node.op == "AssignVariableOp":
                from_asset = _source(node.input[1], self._nodes) in self._assets
                values.setdefault(_node(node.input[0]), []).append(from_asset)
        return {name for name, from_assets in values.items() if all(from_assets)}

    def fetch(self, names: Iterable[str], *, restores: bool = False) -> None:
        """Look at what the tensors or ops `names` need; `restores`: RestoreV2 is what it is there for."""
        waiting = [_node(name) for name in names if name]
        while waiting:
            name = waiting.pop()
            node = self._nodes.get(name)
            if node is None or name in self._fetched:
                continue
            self._fetched.add(name)
            waiting += map(_node, node.input)
            self._look(node, self._nodes, self._assets, restores)

    def _look(self, node: Any, nodes: Mapping[str, Any], assets: set[str], restores: bool) -> None:
        """Take `node` down, and what it calls.

        Args:
            node: to look at.
            nodes: those beside it, by name.
            assets: of these and of the arguments, the names of the model's own files.
            restores: as for `fetch`.
        """
        of_asset = [_source(name, nodes) in assets for name in node.input if not name.startswith("^")]
        own = (node.op == "RestoreV2" and restores) or (node.op in _TABLE_FILES and of_asset[1:2] == [True])
        known = node.op in self._functions or op_def_registry.get(node.op) is not None
        if not own and (node.op in _REACH_OF or not known):
            self.ops.add(node.op)
        callees = [value.func.name for value in node.attr.values()]
        callees += [function.name for value in node.attr.values() for function in value.list.func]
        for callee in (node.op, *callees):
            if callee in self._functions:
                self._call(callee, tuple(of_asset), restores)

    def _call(self, name: str, of_asset: tuple[bool, ...], restores: bool) -> None:
        if (name, of_asset, restores) in self._called:
            return
        self._called.add((name, of_asset, restores))
        function = self._functions[name]
        arguments = [argument.name for argument in function.signature.input_arg]
        # Of ops that call with other arguments than their own, such as If, nothing is taken for an asset.
        aligned = len(arguments) == len(of_asset)
        assets = {a for a, is_asset in zip(arguments, of_asset, strict=aligned) if is_asset and aligned}
        nodes = {node.name: node for node in function.node_def}
        for node in function.node_def:
            self._look(node, nodes, assets, restores)


def _node(name: str) -> str:
    """The node of a tensor or control input."""
    return name.removeprefix("^").partition(":")[0]


def _source(name: str, nodes: Mapping[str, Any]) -> str:
    """The node that a tensor comes from, behind identities and reads of variables."""
    name = _node(name)
    seen = set()
    while name in nodes and nodes[name].op in ("Identity", "ReadVariableOp") and name not in seen:
        seen.add(name)
        name = _node(nodes[name].input[0])
    return name
