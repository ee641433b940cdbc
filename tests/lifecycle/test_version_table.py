from __future__ import annotations

from app.errors import not_found
from app.lifecycle.states import State, StateBoard
from app.lifecycle.version_table import VersionTable


class Servable:
    def close(self) -> None:
        pass


def table_of(*versions: int) -> tuple[VersionTable[Servable], StateBoard]:
    """A table with versions of the model m at their start, and its board."""
    board = StateBoard()
    table = VersionTable[Servable](board)
    table.models["m"] = {}
    for number in versions:
        table.begin("m", number, f"/{number}")
    return table, board


def states(board: StateBoard) -> dict[int, State]:
    return {status.version: status.state for status in board.versions("m")}


def test_a_version_begins_at_its_start_and_its_states_are_published() -> None:
    table, board = table_of(1)
    (version,) = table
    assert (version.model, version.number, version.path) == ("m", 1, "/1")
    assert states(board) == {1: State.START}
    table.publish(version, State.LOADING)
    assert version.state is State.LOADING
    assert states(board) == {1: State.LOADING}


def test_the_newest_is_the_highest_that_is_available() -> None:
    table, _ = table_of(1, 3, 2)
    table.update_newest("m")
    assert "m" not in table.newest
    for number, newest in ((2, 2), (1, 2), (3, 3)):
        table.publish(table.models["m"][number], State.AVAILABLE)
        table.update_newest("m")
        assert table.newest["m"].number == newest
    for version in table:
        table.publish(version, State.UNLOADING)
    table.update_newest("m")
    assert "m" not in table.newest


def test_what_ended_may_begin_anew_from_another_path() -> None:
    table, board = table_of(1)
    (version,) = table
    error = not_found("gone")
    table.end(version, error, None)
    assert list(table) == [version]
    assert board.versions("m")[0].error is error
    table.end(version, None, "/other")
    (anew,) = table
    assert anew is not version
    assert (anew.number, anew.path, anew.state) == (1, "/other", State.START)


def test_what_is_dropped_is_gone_unless_it_is_wanted_again() -> None:
    table, board = table_of(1, 2, 3)
    one, two, three = table
    for version in (one, two, three):
        table.publish(version, State.END)
    one.aspired = False
    three.came_back = "/back"
    for version in table:  # which may change meanwhile
        table.drop(version)
    assert {version.number: version.path for version in table} == {2: "/2", 3: "/back"}
    assert states(board) == {1: State.END, 2: State.START, 3: State.START}
