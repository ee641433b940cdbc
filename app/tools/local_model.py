"""A model in a version directory, read from its files; loaded only to be asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.engine import savedmodel_file
from app.errors import ServingError, not_found
from app.lifecycle.storage import BasePathError, list_versions, read_entries
from app.tools.described import Described, signatures_of
from app.tools.example import Example, serialised
from app.tools.graph import Graph

_TFLITE = "model.tflite"
_FILES = ("saved_model.pb", "saved_model.pbtxt", _TFLITE)


class LocalModel:
    """See `Target`."""

    def __init__(self, path: str, tags: Sequence[str] = ("serve",), name: str = "") -> None:
        """Take the model at `path`.

        Args:
            path: a version directory, or a base path, whose highest version is taken.
            tags: of the meta graph.
            name: for requests; by default the base path's own.

        Raises:
            ServingError: NOT_FOUND if `path` is neither.
        """
        self.path, self.version = version_directory(path)
        parent = os.path.dirname(os.path.abspath(self.path))
        own = parent if self.version is not None else os.path.abspath(self.path)
        self.name = name or os.path.basename(own) or "model"
        self._tags = tuple(tags)
        self._loaded: Any = None

    def describe(self) -> Described:
        """What its files say, without a run."""
        if not os.path.exists(os.path.join(self.path, _TFLITE)) or _is_saved_model(self.path):
            return self._describe_saved_model()
        model = self.loaded()
        return Described(
            source=self.path,
            model=self.name,
            version=self.version,
            signatures=signatures_of(model.signature_defs),
            details={"format": "TensorFlow Lite", **sizes(self.path)},
        )

    def _describe_saved_model(self) -> Described:
        saved_model = savedmodel_file.read(self.path)
        meta_graph = savedmodel_file.meta_graph(saved_model, self._tags)
        graph = Graph(meta_graph)
        # What runs at load has no signature to call: its ops are told with the files.
        callable_ = {name: s for name, s in signatures_of(meta_graph.signature_def).items() if s.is_callable}
        info = meta_graph.meta_info_def
        tags = [sorted(other.meta_info_def.tags) for other in saved_model.meta_graphs]
        return Described(
            source=self.path,
            model=self.name,
            version=self.version,
            signatures=callable_,
            facts={
                name: graph.facts(spec.tensor for spec in signature.outputs.values())
                for name, signature in callable_.items()
            },
            details={
                "format": "SavedModel",
                "tags": sorted(info.tags),
                "all tags": tags,
                "TensorFlow": info.tensorflow_version,
                "ops": len(meta_graph.graph_def.node)
                + sum(len(function.node_def) for function in meta_graph.graph_def.library.function),
                "file ops at load": list(graph.facts(_at_load(meta_graph)).file_ops),
                **sizes(self.path),
            },
        )

    def ask(self, example: Example) -> str:
        """Run `example`; the first time the model is loaded, which takes seconds."""
        from app.api.predict import predict

        values = {alias: value.array for alias, value in example.inputs.items()}
        if example.method != "predict":
            serial = np.array([serialised(example.features)], object)
            values = dict.fromkeys(example.signature.inputs, serial)
        try:
            predict(self.loaded(), example.signature.name, values)
        except ServingError as error:
            return str(error)
        return ""

    def loaded(self) -> Any:
        """The loaded model: a `Model` of the engine."""
        if self._loaded is None:
            from app.engine import savedmodel, tflite
            from app.engine.session_config import session_config
            from app.options import Options

            if _is_saved_model(self.path):
                config = session_config(Options())
                self._loaded = savedmodel.load(self.path, self._tags, config)
            else:
                self._loaded = tflite.load(self.path, 1)
        return self._loaded

    def close(self) -> None:
        """Give back what a load took."""
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None


def version_directory(path: str) -> tuple[str, int | None]:
    """The version directory that `path` is, or the highest that it holds, and its number if it has one.

    Raises:
        ServingError: NOT_FOUND if there is none.
    """
    path = os.path.abspath(path)
    if any(os.path.exists(os.path.join(path, file)) for file in _FILES):
        number = next(iter(list_versions("", [os.path.basename(path)]).versions), None)
        return path, number
    try:
        versions = list_versions(path, (name for name, _ in read_entries("model", path))).versions
    except BasePathError as error:
        raise not_found(str(error)) from None
    if not versions:
        raise not_found(
            f"{path} is neither a version directory (it holds no saved_model.pb) nor a base path (it holds "
            "no directory whose name is a number)."
        )
    return versions[max(versions)], max(versions)


def sizes(path: str) -> dict[str, int]:
    """Bytes of all files below `path`, of the graph, the variables and the assets."""
    totals = {"bytes": 0, "graph bytes": 0, "variables bytes": 0, "assets bytes": 0}
    for directory, _, names in os.walk(path):
        top = os.path.relpath(directory, path).split(os.sep)[0]
        for name in names:
            size = os.lstat(os.path.join(directory, name)).st_size
            totals["bytes"] += size
            if top in ("variables", "assets"):
                totals[f"{top} bytes"] += size
            elif top == "." and name in _FILES:
                totals["graph bytes"] += size
    return totals


def _is_saved_model(path: str) -> bool:
    return any(os.path.exists(os.path.join(path, file)) for file in _FILES[:2])


def _at_load(meta_graph: Any) -> list[str]:
    """What runs once at load: the init op of either kind of export."""
    signatures, collections = meta_graph.signature_def, meta_graph.collection_def
    tensors: list[str] = []
    if "__saved_model_init_op" in signatures:  # a look would add what is not there
        tensors += [info.name for info in signatures["__saved_model_init_op"].outputs.values()]
    for key in ("saved_model_main_op", "legacy_init_op"):
        if key in collections:
            tensors += collections[key].node_list.value
    return tensors
