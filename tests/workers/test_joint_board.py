from __future__ import annotations

import copy
import time
from collections.abc import Iterator

import pytest

from app.lifecycle.states import State, VersionStatus
from app.workers.crew import Crew
from app.workers.joint_board import JointBoard


@pytest.fixture
def boards() -> Iterator[tuple[JointBoard, JointBoard]]:
    """Those of two workers, here in one process, that look at each other."""
    crew = Crew(2)
    made = []
    for index in (0, 1):
        own = copy.copy(crew)
        own.index = index
        made.append(JointBoard(own))
        made[-1].start()
    yield made[0], made[1]
    for board in made:
        board.stop()


def publish(board: JointBoard, version: int, state: State) -> None:
    board.publish("m", VersionStatus(version, state))


def states(board: JointBoard) -> dict[int, str]:
    return {status.version: status.state.name for status in board.versions("m")}


def shows(board: JointBoard, expected: dict[int, str]) -> bool:
    """Whether it comes to show this."""
    return board.wait(lambda: states(board) == expected, time.monotonic() + 30)


def test_who_has_not_joined_goes_by_itself(boards: tuple[JointBoard, JointBoard]) -> None:
    one, other = boards
    publish(one, 1, State.AVAILABLE)
    publish(other, 1, State.LOADING)
    assert (states(one), states(other)) == ({1: "AVAILABLE"}, {1: "LOADING"})


def test_a_version_is_available_once_all_have_it(boards: tuple[JointBoard, JointBoard]) -> None:
    one, other = boards
    for board in boards:
        publish(board, 1, State.AVAILABLE)
        board.join()
    publish(one, 2, State.AVAILABLE)
    for board in boards:
        assert shows(board, {2: "LOADING", 1: "AVAILABLE"})
        assert not board.everywhere("m", 2)
    publish(other, 2, State.AVAILABLE)
    for board in boards:
        assert shows(board, {2: "AVAILABLE", 1: "AVAILABLE"})
        assert board.everywhere("m", 2)
    publish(one, 1, State.UNLOADING)
    for board in boards:
        assert shows(board, {2: "AVAILABLE", 1: "UNLOADING"})
    other.leave()
    publish(one, 3, State.AVAILABLE)
    assert one.wait(lambda: one.everywhere("m", 3))


def test_who_comes_back_joins_with_what_the_others_have(boards: tuple[JointBoard, JointBoard]) -> None:
    one, other = boards
    publish(one, 1, State.AVAILABLE)
    one.join()
    publish(other, 2, State.AVAILABLE)
    assert other.wait(lambda: bool(other.replies("anything")))  # it has seen who is there
    other.join(seconds=0)  # in vain
    assert one.wait(lambda: states(one) == {2: "LOADING", 1: "LOADING"})


def test_replies_are_heard(boards: tuple[JointBoard, JointBoard]) -> None:
    one, other = boards
    other.join()
    assert one.wait(lambda: one.replies("check 1") == {1: None})
    other.reply("check 1", "done")
    assert one.wait(lambda: one.replies("check 1") == {1: "done"})
