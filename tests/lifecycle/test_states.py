from __future__ import annotations

import threading
import time

from app.errors import not_found
from app.lifecycle.states import State, StateBoard, VersionStatus


def test_versions_are_listed_highest_first_with_their_last_state() -> None:
    board = StateBoard()
    board.publish("m", VersionStatus(1, State.AVAILABLE))
    board.publish("m", VersionStatus(10, State.LOADING))
    failure = not_found("gone")
    board.publish("m", VersionStatus(10, State.END, failure))
    assert board.versions("m") == [
        VersionStatus(10, State.END, failure),
        VersionStatus(1, State.AVAILABLE),
    ]
    assert board.versions("other") == []


def test_a_model_is_available_while_one_of_its_versions_is() -> None:
    board = StateBoard()
    assert not board.is_available("m")
    board.publish("m", VersionStatus(1, State.AVAILABLE))
    board.publish("m", VersionStatus(2, State.LOADING))
    assert board.is_available("m")
    assert not board.is_available("other")
    board.publish("m", VersionStatus(1, State.UNLOADING))
    assert not board.is_available("m")


def test_a_waiter_is_woken_by_a_change() -> None:
    board = StateBoard()
    publisher = threading.Thread(target=board.publish, args=("m", VersionStatus(1, State.AVAILABLE)))
    publisher.start()
    assert board.wait(lambda: bool(board.versions("m")), deadline=time.monotonic() + 30)
    publisher.join()


def test_a_wait_ends_at_its_deadline() -> None:
    assert not StateBoard().wait(lambda: False, deadline=time.monotonic() + 0.01)
