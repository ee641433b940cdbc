"""Models that the tests of the engine run. Loaded once: they have no state that a run changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from app.engine import savedmodel
from app.engine.model import Model
from app.engine.session_config import session_config
from app.options import Options
from tests.support import models


def load(path: Path) -> Model:
    return savedmodel.load(str(path), ["serve"], session_config(Options()))


def edited(path: Path, change: Callable[[Any], None], tmp_path: Path) -> Model:
    """The model in `path` with another meta graph."""
    copy = tmp_path / "edited" / "1"
    copy.parent.mkdir()
    tf.io.gfile.makedirs(str(copy))
    for file in path.rglob("*"):
        target = copy / file.relative_to(path)
        if file.is_dir():
            target.mkdir()
        else:
            target.write_bytes(file.read_bytes())
    return load(models.edit_meta_graph(copy, change))


@pytest.fixture(scope="session")
def half(half_plus_two: Path) -> Iterator[Model]:
    """y = x / 2 + 2."""
    model = load(half_plus_two / "1")
    yield model
    model.close()


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A signature `id_DTYPE` for every element type."""
    model = load(models.save_identity(tmp_path_factory.mktemp("identity") / "1"))
    yield model
    model.close()


@pytest.fixture(scope="session")
def two_inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """a float [None, 2] and b int64 [None] to sum and twice."""
    model = load(models.save_two_inputs(tmp_path_factory.mktemp("two_inputs") / "1"))
    yield model
    model.close()


@pytest.fixture(scope="session")
def busy_model(busy: Path) -> Iterator[Model]:
    """Runs for as long as its input says."""
    model = load(busy / "1")
    yield model
    model.close()


@pytest.fixture(scope="session")
def vocabulary_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TF1 export with a table that is filled from an asset. Not to be changed by a test."""
    path = tmp_path_factory.mktemp("vocabulary") / "1"
    return models.save_vocabulary(path, ["the", "quick", "fox"])
