"""Three real models behind the real manager, for the method table and its transport."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.config.model_config import ModelConfig
from app.engine import savedmodel
from app.engine.model import Model
from app.engine.session_config import session_config
from app.lifecycle.manager import Manager
from app.lifecycle.states import State, StateBoard
from app.options import Options
from tests.support import models


@dataclass
class Served:
    """What a method table is made from."""

    manager: Manager[Model]
    board: StateBoard


def refuse(models: Sequence[ModelConfig]) -> None:
    """Stands where a configuration would be applied; nothing here asks for it."""
    raise AssertionError(models)


@pytest.fixture(scope="session")
def served(half_plus_two: Path, busy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`half_plus_two` 123 and 124, `multi` 7 (two inputs), `dtypes` 1 (identity), `busy` 1, `broken` 1."""
    base = tmp_path_factory.mktemp("served")
    board = StateBoard()
    manager: Manager[Model] = Manager(
        lambda _name, _number, path: savedmodel.load(path, ["serve"], session_config(Options())),
        board,
        max_retries=0,
    )
    manager.labels.replace({})
    manager.start()
    wanted = {
        "half_plus_two": {123: half_plus_two / "1", 124: models.save_half_plus(base / "124", 3.0)},
        "multi": {7: models.save_two_inputs(base / "multi")},
        "dtypes": {1: models.save_identity(base / "dtypes")},
        "busy": {1: busy / "1"},
        "broken": {1: base / "nowhere"},
    }
    for name, versions in wanted.items():
        manager.set_aspired(name, {number: str(path) for number, path in versions.items()})

    def settled() -> bool:
        return all(
            [status.state in (State.AVAILABLE, State.END) for status in board.versions(name)]
            == [True] * len(v)
            for name, v in wanted.items()
        )

    assert board.wait(settled, time.monotonic() + 60)
    yield Served(manager, board)
    manager.stop()
