"""Graphs without signatures, of a TF1 checkpoint or a frozen one, to SavedModels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError

from app.engine.signature import DEFAULT_SIGNATURE
from app.errors import Code, ServingError, invalid_argument
from app.tools.graph import node_name

_VARIABLES = ("VarHandleOp", "VariableV2", "Variable")
_SOME = 20

tf1 = tf.compat.v1


def convert_checkpoint(
    source: str,
    target: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    signature: str = DEFAULT_SIGNATURE,
) -> None:
    """Write a TF1 checkpoint with its meta graph as a SavedModel.

    Args:
        source: the directory of checkpoints, whose latest is taken; a checkpoint's prefix; or a `.meta` file.
        target: an empty directory.
        inputs: tensor by alias.
        outputs: tensor by alias. Only the variables behind them are kept.
        signature: the name of the signature.

    Raises:
        ServingError: NOT_FOUND without checkpoint or meta graph, INVALID_ARGUMENT for tensors that are
            not there, and for what TensorFlow cannot restore.
    """
    prefix = _checkpoint(source)
    with _quiet(), tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        try:
            tf1.train.import_meta_graph(f"{prefix}.meta", clear_devices=True)
        except (ValueError, KeyError, tf.errors.OpError, text_format.ParseError) as error:
            raise invalid_argument(f"{prefix}.meta cannot be imported: {error}") from error
        definition = _definition(graph, inputs, outputs)
        behind = {
            node.name
            for node in tf1.graph_util.extract_sub_graph(
                graph.as_graph_def(), [node_name(tensor) for tensor in outputs.values()]
            ).node
        }
        variables = [variable for variable in tf1.global_variables() if variable.op.name in behind]
        saver = tf1.train.Saver(variables) if variables else None
        try:
            if saver is not None:
                saver.restore(session, prefix)
            _save(session, target, signature, definition, saver)
        except (ValueError, tf.errors.OpError) as error:
            raise invalid_argument(f"{prefix} cannot be restored: {error}") from error


def convert_frozen(
    source: str,
    target: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    signature: str = DEFAULT_SIGNATURE,
) -> None:
    """Write a frozen graph, the GraphDef in the `.pb` or `.pbtxt` file `source`, as a SavedModel.

    Args and errors: see `convert_checkpoint`.
    """
    graph_def = tf1.GraphDef()
    try:
        with open(source, "rb") as stream:
            content = stream.read()
        if source.endswith(".pbtxt"):
            text_format.Parse(content, graph_def)
        else:
            graph_def.ParseFromString(content)
    except (DecodeError, text_format.ParseError, UnicodeDecodeError, OSError) as error:
        raise invalid_argument(f"{source} is no GraphDef: {error}") from None
    variables = [node.name for node in graph_def.node if node.op in _VARIABLES]
    if variables:
        raise invalid_argument(
            f"{source} is not frozen: it has variables ({', '.join(variables[:3])}), whose values it does "
            "not hold. Export the checkpoint instead."
        )
    with _quiet(), tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        try:
            tf1.import_graph_def(graph_def, name="")
        except (ValueError, tf.errors.OpError) as error:
            raise invalid_argument(f"{source} cannot be imported: {error}") from error
        _save(session, target, signature, _definition(graph, inputs, outputs), None)


def _checkpoint(source: str) -> str:
    """The prefix of the checkpoint that `source` stands for."""
    prefix = source.removesuffix(".meta").removesuffix(".index")
    if os.path.isdir(source):
        prefix = tf.train.latest_checkpoint(source) or ""
        if not prefix:
            raise ServingError(
                Code.NOT_FOUND, f"{source} holds no checkpoint that its file `checkpoint` names."
            )
    for end, what in ((".index", "checkpoint"), (".meta", "meta graph")):
        if not os.path.exists(prefix + end):
            raise ServingError(
                Code.NOT_FOUND,
                f"{prefix}{end} is not there: a TF1 checkpoint is PREFIX.index, PREFIX.data-… and the {what} "
                f"PREFIX.meta, which tf.compat.v1.train.Saver writes.",
            )
    return prefix


def _definition(graph: Any, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Any:
    """The SignatureDef; INVALID_ARGUMENT, with what could be meant, for tensors that are not there."""
    operations = graph.get_operations()
    if not outputs:
        placeholders = [op for op in operations if op.type == "Placeholder"]
        starts = [op.outputs[0].name for op in placeholders]
        ends = _ends(placeholders)
        raise invalid_argument(
            "a graph does not say what its inputs and outputs are: name them with --input NAME=TENSOR and "
            f"--output NAME=TENSOR. Placeholders: {_some(starts)}. Where they lead: {_some(ends)}."
        )
    tensors = {}
    for tensor in (*inputs.values(), *outputs.values()):
        try:
            tensors[tensor] = graph.get_tensor_by_name(tensor)
        except (KeyError, ValueError):
            like = [op.name for op in operations if node_name(tensor).rpartition("/")[2] in op.name]
            raise invalid_argument(
                f"the graph has no tensor {tensor}. Operations with such a name: {_some(like)}."
            ) from None
    return tf1.saved_model.signature_def_utils.predict_signature_def(
        {alias: tensors[name] for alias, name in inputs.items()},
        {alias: tensors[name] for alias, name in outputs.items()},
    )


def _ends(starts: list[Any]) -> list[str]:
    """The last tensors of what follows from the operations `starts`."""
    pending, seen, ends = [*starts], set[str](), []
    while pending:
        operation = pending.pop()
        if operation.name in seen:
            continue
        seen.add(operation.name)
        consumers = [consumer for tensor in operation.outputs for consumer in tensor.consumers()]
        pending += consumers
        if operation.outputs and not consumers:
            ends.append(operation.outputs[0].name)
    return sorted(ends)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SOME} more" if len(names) > _SOME else ""
    return (", ".join(names[:_SOME]) or "none") + more


def _save(session: Any, target: str, signature: str, definition: Any, saver: Any) -> None:
    os.rmdir(target)  # the builder makes it
    builder = tf1.saved_model.Builder(target)
    tables = tf1.get_collection(tf1.GraphKeys.TABLE_INITIALIZERS)
    builder.add_meta_graph_and_variables(
        session,
        ["serve"],
        signature_def_map={signature: definition},
        assets_collection=tf1.get_collection(tf1.GraphKeys.ASSET_FILEPATHS),
        main_op=tf.group(*tables) if tables else None,
        saver=saver,
        clear_devices=True,
        strip_default_attrs=True,
    )
    builder.save()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TensorFlow's words about TF1's age out of the user's sight."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger = tf.get_logger()
        level = logger.level
        logger.setLevel("ERROR")
        try:
            yield
        finally:
            logger.setLevel(level)
