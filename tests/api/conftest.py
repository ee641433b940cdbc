"""Models that the tests of the API ask. Loaded once: they have no state that a request changes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from app.engine import savedmodel
from app.engine.model import Model
from app.engine.session_config import session_config
from app.lifecycle.manager import Manager
from app.lifecycle.states import State, StateBoard
from app.options import Options
from tests.support import models


def load(path: Path) -> Model:
    return savedmodel.load(str(path), ["serve"], session_config(Options()))


@pytest.fixture(scope="session")
def half(half_plus_two: Path) -> Iterator[Model]:
    """y = x / 2 + 2, and the same under another method name."""

    def change(meta_graph: Any) -> None:
        for method in ("classify", "regress", "other"):
            signature = meta_graph.signature_def[method]
            signature.CopyFrom(meta_graph.signature_def["serving_default"])
            signature.method_name = f"tensorflow/serving/{method}"

    path = half_plus_two.parent / f"{half_plus_two.name}-signatures" / "1"
    shutil.copytree(half_plus_two / "1", path)
    model = load(models.edit_meta_graph(path, change))
    yield model
    model.close()


@pytest.fixture(scope="session")
def two_inputs_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a float [None, 2] and b int64 [None] to sum and twice; in `defaulted` b may be left out."""

    def change(meta_graph: Any) -> None:
        signature = meta_graph.signature_def["defaulted"]
        signature.CopyFrom(meta_graph.signature_def["serving_default"])
        signature.defaults["b"].CopyFrom(tf.make_tensor_proto([10], tf.int64))

    path = models.save_two_inputs(tmp_path_factory.mktemp("two_inputs") / "1")
    return models.edit_meta_graph(path, change)


@pytest.fixture(scope="session")
def two_inputs(two_inputs_path: Path) -> Iterator[Model]:
    """The model of `two_inputs_path`."""
    model = load(two_inputs_path)
    yield model
    model.close()


@contextmanager
def serving(name: str, versions: Mapping[int, Path]) -> Iterator[Manager[Model]]:
    """A manager in which `versions` of a model are available."""
    board = StateBoard()
    manager: Manager[Model] = Manager(lambda _name, _number, path: load(Path(path)), board)
    manager.labels.replace({})
    manager.start()
    manager.set_aspired(name, {number: str(path) for number, path in versions.items()})
    available = [State.AVAILABLE] * len(versions)
    assert board.wait(
        lambda: [status.state for status in board.versions(name)] == available, time.monotonic() + 60
    )
    yield manager
    manager.stop()
