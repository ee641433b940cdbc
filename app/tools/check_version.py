"""What is wrong with a version directory, as far as its files tell without a load."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from app.config import batching
from app.config.text_proto import TextError
from app.engine import savedmodel_file
from app.errors import ServingError
from app.options import Options
from app.tools.described import signatures_of
from app.tools.graph import Graph

_VARIABLE_OPS = frozenset(("VarHandleOp", "VariableV2", "Variable"))
_SHARD = re.compile(r"variables\.data-[0-9]{5}-of-([0-9]{5})\Z")
_WARMUP = os.path.join("assets.extra", "tf_serving_warmup_requests")
_BATCHING = "batching_params.pbtxt"
_MOST_RECORDS = 1000
_REPLAYED = ("predict_log", "classify_log", "regress_log", "multi_inference_log", None)


@dataclass(frozen=True)
class Problem:
    """Something that would keep a server from serving.

    Attributes:
        place: a file, perhaps with `:LINE:COLUMN`, a directory, or a flag.
        cause: what is wrong, and what to do.
    """

    place: str
    cause: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.place}: {' '.join(self.cause.split())}"


def problem_of(place: str, error: ServingError) -> Problem:
    """`error` as a problem, with line and column where it knows them."""
    if not isinstance(error, TextError):
        return Problem(place, error.message)
    where = f":{error.line}:{error.column}" if error.line else ""
    return Problem(f"{error.path}{where}", error.cause)


def version_problems(path: str, options: Options) -> Iterator[Problem]:
    """The problems of the version in the directory `path`."""
    tflite = os.path.join(path, "model.tflite")
    if options.prefer_tflite_model and os.path.exists(tflite):
        yield from _tflite(tflite)
    else:
        yield from _saved_model(
            path, options.saved_model_tags.split(",") if options.saved_model_tags else ["serve"]
        )
    if options.enable_model_warmup and os.path.exists(os.path.join(path, _WARMUP)):
        yield from _warmup(os.path.join(path, _WARMUP))
    own = os.path.join(path, _BATCHING)
    if options.enable_batching and options.enable_per_model_batching_parameters and os.path.exists(own):
        try:
            batching.read_file(own).check_queues()
        except ServingError as error:
            yield problem_of(own, error)


def _saved_model(path: str, tags: Sequence[str]) -> Iterator[Problem]:
    try:
        saved_model = savedmodel_file.read(path)
    except ServingError as error:
        yield Problem(path, error.message)
        return
    file = os.path.join(path, "saved_model.pb")
    if not os.path.exists(file):
        file += "txt"
    try:
        meta_graph = savedmodel_file.meta_graph(saved_model, tags)
    except ServingError:
        there = "; ".join(",".join(sorted(other.meta_info_def.tags)) for other in saved_model.meta_graphs)
        yield Problem(
            file, f"no meta graph has the tags {','.join(tags)}. There are: {there}. Give --saved_model_tags."
        )
        return
    yield from _signatures(file, meta_graph)
    yield from _variables(path, meta_graph)
    for asset in meta_graph.asset_file_def:
        where = os.path.join(path, "assets", asset.filename)
        if not os.path.exists(where):
            yield Problem(where, "the model needs this asset, and it is missing. Copy the version again.")


def _signatures(file: str, meta_graph: Any) -> Iterator[Problem]:
    graph, signatures = Graph(meta_graph), signatures_of(meta_graph.signature_def)
    if not any(signature.is_callable for signature in signatures.values()):
        yield Problem(file, "it has no signature that can be called. Export the model with one.")
    for name, signature in signatures.items():
        for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
            for spec in specs.values():
                if spec.tensor and not graph.has(spec.tensor):
                    yield Problem(
                        file,
                        f"signature {name}: {kind} {spec.alias} is {spec.tensor}, which the graph lacks.",
                    )
                elif signature.is_callable and not spec.dtype.number:
                    yield Problem(file, f"signature {name}: {kind} {spec.alias} has no element type.")


def _variables(path: str, meta_graph: Any) -> Iterator[Problem]:
    functions = meta_graph.graph_def.library.function
    nodes = [*meta_graph.graph_def.node, *(node for function in functions for node in function.node_def)]
    directory = os.path.join(path, "variables")
    index = os.path.join(directory, "variables.index")
    if not os.path.exists(index):
        if any(node.op in _VARIABLE_OPS for node in nodes):
            yield Problem(
                index, "the model has variables, and their index is missing. Copy the version again."
            )
        return
    shards = [match for name in os.listdir(directory) if (match := _SHARD.match(name))]
    wanted = max((int(shard.group(1)) for shard in shards), default=1)
    if len(shards) < wanted:
        yield Problem(
            directory,
            f"{len(shards)} of {wanted} data files of the variables are there. Copy the version again.",
        )


def _tflite(file: str) -> Iterator[Problem]:
    try:
        with open(file, "rb") as stream:
            head = stream.read(8)
    except OSError as error:
        yield Problem(file, f"it cannot be read: {error.strerror}.")
        return
    if head[4:] != b"TFL3":
        yield Problem(file, "it is no TensorFlow Lite model: its identifier is not TFL3.")


def _warmup(file: str) -> Iterator[Problem]:
    """The framing of TFRecord and the messages in it; checksums are left to the load."""
    count = 0
    try:
        with open(file, "rb") as stream:
            while head := stream.read(12):
                (length,) = struct.unpack("<Q", head[:8].ljust(8, b"\xff"))
                remaining = os.fstat(stream.fileno()).st_size - stream.tell()
                if len(head) < 12 or length + 4 > remaining:
                    yield Problem(file, f"record {count + 1} is cut off, or this is no TFRecord file.")
                    return
                count += 1
                log = prediction_log_pb2.PredictionLog.FromString(stream.read(length))
                if (kind := log.WhichOneof("log_type")) not in _REPLAYED:
                    yield Problem(file, f"record {count} is a {kind}, which is not replayed.")
                stream.seek(4, os.SEEK_CUR)
    except DecodeError:
        yield Problem(file, f"record {count} is no PredictionLog.")
    except OSError as error:
        yield Problem(file, f"it cannot be read: {error.strerror}.")
    if count > _MOST_RECORDS:
        yield Problem(file, f"it has {count} records; {_MOST_RECORDS} are the most.")
