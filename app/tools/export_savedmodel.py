"""A SavedModel to one with some of its signatures; variables and assets stay as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any

from app.engine import savedmodel_file
from app.errors import invalid_argument
from app.tools.described import signatures_of
from app.tools.local_model import version_directory

_INIT = "__saved_model_init_op"
# The fingerprint is that of the old file.
_REPLACED = ("saved_model.pb", "saved_model.pbtxt", "fingerprint.pb")


def convert(source: str, target: str, tags: Sequence[str], signatures: Sequence[str]) -> None:
    """Copy the SavedModel at `source` to the directory `target`, with one meta graph.

    Args:
        source: a version directory, a base path, or the `saved_model.pb` itself.
        target: empty.
        tags: of the meta graph that is kept.
        signatures: those to keep; all if empty.

    Raises:
        ServingError: INVALID_ARGUMENT for signatures that are not there, and what the file has wrong.
    """
    if os.path.isfile(source):
        source = os.path.dirname(source) or "."
    path, _ = version_directory(source)
    saved_model = savedmodel_file.read(path)
    meta_graph = savedmodel_file.meta_graph(saved_model, tags)
    if signatures:
        _keep(meta_graph, signatures, path)
    while len(saved_model.meta_graphs) > 1:
        other = next(found for found in saved_model.meta_graphs if found is not meta_graph)
        saved_model.meta_graphs.remove(other)
    shutil.copytree(path, target, ignore=_ignore(path), dirs_exist_ok=True)
    with open(os.path.join(target, "saved_model.pb"), "wb") as stream:
        stream.write(saved_model.SerializeToString(deterministic=True))


def _keep(meta_graph: Any, signatures: Sequence[str], path: str) -> None:
    found = [name for name, s in signatures_of(meta_graph.signature_def).items() if s.is_callable]
    if missing := [name for name in signatures if name not in found]:
        raise invalid_argument(f"{path} has no signature {', '.join(missing)}; it has: {', '.join(found)}.")
    for name in list(meta_graph.signature_def):
        if name not in signatures and name != _INIT:
            del meta_graph.signature_def[name]
    # TensorFlow 2 finds signatures by its own list, among the objects.
    nodes = meta_graph.object_graph_def.nodes
    for child in nodes[0].children if nodes else ():
        if child.local_name == "signatures":
            listed = nodes[child.node_id].children
            kept = [entry for entry in listed if entry.local_name in signatures]
            del listed[:]
            listed.extend(kept)


def _ignore(top: str) -> Any:
    def ignored(directory: str, names: list[str]) -> list[str]:
        return [name for name in names if directory == top and name in _REPLACED]

    return ignored
