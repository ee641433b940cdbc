from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from app.config.model_config import ModelConfig
from app.errors import ServingError, invalid_argument
from app.workers.crew import Crew
from app.workers.joint_board import JointBoard
from app.workers.joint_models import JointModels

A, B = (ModelConfig(name, f"/models/{name}") for name in "ab")


class Served:
    """Stands for a worker's `ServedModels`."""

    def __init__(self) -> None:
        self.models: list[ModelConfig] | None = None
        self.refuses = False

    def check(self, models: Sequence[ModelConfig]) -> None:
        if self.refuses:
            raise invalid_argument(f"not these {len(models)}")

    def apply(self, models: Sequence[ModelConfig]) -> None:
        self.models = list(models)


@pytest.fixture
def crew() -> Crew:
    return Crew(2)


def _hears(board: JointBoard, other: int) -> bool:
    return other in board.replies("")


@pytest.fixture
def workers(crew: Crew) -> Iterator[list[tuple[JointModels, Any]]]:
    """Two that have joined, here in one process."""
    made, boards = [], []
    for index in (0, 1):
        own = copy.copy(crew)
        own.index = index
        board, served = JointBoard(own), Served()
        models = JointModels(own, board, served)  # type: ignore[arg-type]
        board.start()
        assert models.first() is None
        models.begun()
        board.join(seconds=0)
        made.append((models, served))
        boards.append(board)
    for index, board in enumerate(boards):
        assert board.wait(partial(_hears, board, 1 - index))
    yield made
    for board in boards:
        board.stop()


def test_all_serve_what_one_is_asked_to(workers: list[tuple[JointModels, Any]]) -> None:
    (one, here), (other, there) = workers
    one.apply([A])
    assert here.models == there.models == [A]
    other.apply([A, B])
    assert here.models == there.models == [A, B]


def test_nothing_changes_if_another_refuses(workers: list[tuple[JointModels, Any]], crew: Crew) -> None:
    (one, here), (_, there) = workers
    one.apply([A])
    there.refuses = True
    with pytest.raises(ServingError, match="not these 2"):
        one.apply([A, B])
    assert here.models == there.models == [A]
    board = JointBoard(crew)
    assert JointModels(crew, board, Served()).first() == (A,), "nor for who starts now"  # type: ignore[arg-type]
    there.refuses = False
    one.apply([B])
    assert here.models == there.models == [B]
    assert JointModels(crew, board, Served()).first() == (B,)  # type: ignore[arg-type]
