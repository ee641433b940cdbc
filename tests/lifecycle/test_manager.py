from __future__ import annotations

import collections
import queue
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.errors import Code, ServingError, invalid_argument
from app.lifecycle.manager import Manager
from app.lifecycle.states import State, StateBoard
from app.lifecycle.version import Handle
from tests.support.process import wait_until


class Servable:
    """A loaded version that knows whether it was closed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


def load(model: str, version: int, path: str) -> Servable:
    del model, version
    if path == "bad":
        raise invalid_argument("broken")
    return Servable(path)


class Running:
    """A manager with its board, started."""

    def __init__(self, loader: Callable[[str, int, str], Servable] = load, **settings: float) -> None:
        self.board = StateBoard()
        self.manager: Manager[Servable] = Manager(loader, self.board, **settings)  # type: ignore[arg-type]
        self.manager.start()

    def states(self) -> dict[int, State]:
        return {status.version: status.state for status in self.board.versions("m")}

    def wait(self, states: dict[int, State]) -> None:
        wait_until(lambda: self.states() == states, f"{states}, are {self.states()}")


def _available(running: Running, model: str) -> bool:
    return any(status.state is State.AVAILABLE for status in running.board.versions(model))


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.manager.stop()


def test_a_wanted_version_is_loaded_and_handed_out(running: Running) -> None:
    running.manager.set_aspired("m", {1: "/1"})
    running.wait({1: State.AVAILABLE})
    with running.manager.acquire("m") as handle:
        assert (handle.model, handle.version, handle.servable.path) == ("m", 1, "/1")
    with running.manager.acquire("m", 1) as handle:
        assert handle.version == 1


def test_what_is_not_available_is_not_found(running: Running) -> None:
    running.manager.set_aspired("m", {1: "/1"})
    running.wait({1: State.AVAILABLE})
    for name, version, text in (("m", 2, "Specific(m, 2)"), ("nope", None, "Latest(nope)")):
        with pytest.raises(ServingError) as raised:
            running.manager.acquire(name, version)
        assert raised.value.code is Code.NOT_FOUND
        assert raised.value.message == f"Servable not found for request: {text}"


def test_a_new_version_takes_over_and_the_old_one_is_closed(running: Running) -> None:
    running.manager.set_aspired("m", {1: "/1"})
    running.wait({1: State.AVAILABLE})
    old = running.manager.acquire("m").servable
    running.manager.acquire("m").release()
    running.manager.set_aspired("m", {2: "/2"})
    wait_until(lambda: running.states() == {1: State.UNLOADING, 2: State.AVAILABLE}, "2 took over")
    assert not old.closed, "a handle is still out"
    with pytest.raises(ServingError):
        running.manager.acquire("m", 1)


def test_an_unload_waits_for_the_last_handle(running: Running) -> None:
    running.manager.set_aspired("m", {1: "/1"})
    running.wait({1: State.AVAILABLE})
    handles = [running.manager.acquire("m") for _ in range(3)]
    servable = handles[0].servable
    running.manager.set_aspired("m", {})
    running.wait({1: State.UNLOADING})
    for handle in handles:
        assert not servable.closed
        handle.release()
    running.wait({1: State.END})
    assert servable.closed


def test_a_failed_version_leaves_the_old_one_and_is_not_tried_again() -> None:
    running = Running(max_retries=0)
    running.manager.set_aspired("m", {1: "/1"})
    running.wait({1: State.AVAILABLE})
    running.manager.set_aspired("m", {2: "bad"})
    running.wait({1: State.AVAILABLE, 2: State.END})
    (failed, _) = running.board.versions("m")
    assert str(failed.error) == "INVALID_ARGUMENT: broken"
    running.manager.set_aspired("m", {2: "bad"})
    assert running.states() == {1: State.AVAILABLE, 2: State.END}
    running.manager.stop()


def test_a_failed_version_that_went_and_came_back_is_tried_again() -> None:
    running = Running(max_retries=0)
    running.manager.set_aspired("m", {1: "bad"})
    running.wait({1: State.END})
    running.manager.set_aspired("m", {})
    wait_until(lambda: not running.manager._table.models["m"], "the version is forgotten")
    running.manager.set_aspired("m", {1: "/1"})
    running.wait({1: State.AVAILABLE})
    running.manager.stop()


def test_a_load_is_retried_as_often_as_told() -> None:
    attempts: list[int] = []

    def third_time_lucky(model: str, version: int, path: str) -> Servable:
        attempts.append(version)
        if len(attempts) < 3:
            raise invalid_argument("not yet")
        return load(model, version, path)

    running = Running(third_time_lucky, max_retries=5, retry_seconds=0.01)
    running.manager.set_aspired("m", {1: "/1"})
    running.wait({1: State.AVAILABLE})
    assert attempts == [1, 1, 1]
    running.manager.stop()


def test_the_state_stays_loading_between_attempts_and_a_removal_cancels_them() -> None:
    running = Running(max_retries=5, retry_seconds=3600)
    running.manager.set_aspired("m", {1: "bad"})
    wait_until(lambda: running.manager._table.models["m"][1].attempts == 1, "the first attempt failed")
    assert running.states() == {1: State.LOADING}
    running.manager.set_aspired("m", {})
    running.wait({1: State.END})
    (status,) = running.board.versions("m")
    assert str(status.error) == "CANCELLED: Loading of servable cancelled"
    running.manager.stop()


def test_a_pause_without_end_can_be_cancelled_too() -> None:
    running = Running(max_retries=5, retry_seconds=9e12)
    running.manager.set_aspired("m", {1: "bad"})
    wait_until(lambda: running.manager._table.models["m"][1].attempts == 1, "the first attempt failed")
    running.manager.set_aspired("m", {})
    running.wait({1: State.END})
    running.manager.stop()


def test_a_version_removed_while_it_loads_is_unloaded_again() -> None:
    loading, go_on = threading.Event(), threading.Event()

    def slow(model: str, version: int, path: str) -> Servable:
        loading.set()
        assert go_on.wait(30)
        return load(model, version, path)

    running = Running(slow)
    running.manager.set_aspired("m", {1: "/1"})
    assert loading.wait(30)
    running.manager.set_aspired("m", {})
    go_on.set()
    running.wait({1: State.END})
    running.manager.stop()


def test_a_version_that_comes_back_while_unloading_is_loaded_anew(running: Running) -> None:
    running.manager.set_aspired("m", {1: "/old"})
    running.wait({1: State.AVAILABLE})
    handle = running.manager.acquire("m")
    running.manager.set_aspired("m", {})
    running.wait({1: State.UNLOADING})
    running.manager.set_aspired("m", {1: "/new"})
    assert running.states() == {1: State.UNLOADING}
    handle.release()
    running.wait({1: State.AVAILABLE})
    with running.manager.acquire("m") as handle:
        assert handle.servable.path == "/new"


def test_a_version_that_comes_back_while_unloading_does_not_cost_the_one_that_serves(
    running: Running,
) -> None:
    running.manager.set_aspired("m", {1: "/1"})
    running.wait({1: State.AVAILABLE})
    with running.manager.acquire("m"):
        running.manager.set_aspired("m", {2: "/2"})
        running.wait({1: State.UNLOADING, 2: State.AVAILABLE})
        running.manager.set_aspired("m", {1: "/1"})
        running.manager.set_aspired("other", {1: "/1"})  # once it is there, the manager has acted
        wait_until(lambda: _available(running, "other"), "the manager has acted")
        assert running.states() == {1: State.UNLOADING, 2: State.AVAILABLE}
    running.wait({1: State.AVAILABLE, 2: State.END})


class Gate:
    """A loader whose loads end when told to."""

    def __init__(self) -> None:
        self.begun: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._open: dict[tuple[str, int], threading.Event] = collections.defaultdict(threading.Event)

    def load(self, model: str, version: int, path: str) -> Servable:
        self.begun.put((model, version))
        assert self._open[model, version].wait(30)
        return load(model, version, path)

    def open(self, model: str, version: int) -> None:
        self._open[model, version].set()


def test_versions_load_side_by_side_but_no_more_than_there_are_threads() -> None:
    gate = Gate()
    running = Running(gate.load, load_threads=2)
    running.manager.set_aspired("m", {1: "/1", 2: "/2", 3: "/3"})
    assert [gate.begun.get(timeout=30) for _ in range(2)] == [("m", 3), ("m", 2)]
    assert running.states() == {1: State.START, 2: State.LOADING, 3: State.LOADING}
    gate.open("m", 2)
    assert gate.begun.get(timeout=30) == ("m", 1)
    running.wait({1: State.LOADING, 2: State.AVAILABLE, 3: State.LOADING})
    gate.open("m", 1)
    gate.open("m", 3)
    running.wait(dict.fromkeys((1, 2, 3), State.AVAILABLE))
    running.manager.stop()


def test_more_versions_load_at_a_time_at_the_start() -> None:
    gate = Gate()
    running = Running(gate.load, load_threads=1, initial_load_threads=3)
    running.manager.set_aspired("m", {1: "/1", 2: "/2", 3: "/3"})
    for version in [gate.begun.get(timeout=30)[1] for _ in range(3)]:
        gate.open("m", version)
    running.wait(dict.fromkeys((1, 2, 3), State.AVAILABLE))
    running.manager.initial_loads_done()
    running.manager.set_aspired("other", {1: "/1", 2: "/2"})
    assert gate.begun.get(timeout=30) == ("other", 2)
    assert [status.state for status in running.board.versions("other")] == [State.LOADING, State.START]
    gate.open("other", 1)
    gate.open("other", 2)
    assert gate.begun.get(timeout=30) == ("other", 1)
    running.manager.stop()


def test_a_slow_load_holds_up_neither_an_unload_nor_a_retry_pause() -> None:
    gate = Gate()
    running = Running(gate.load)
    gate.open("m", 1)
    running.manager.set_aspired("m", {1: "/1"})
    running.wait({1: State.AVAILABLE})
    running.manager.set_aspired("slow", {1: "/1"})
    while gate.begun.get(timeout=30) != ("slow", 1):
        pass
    running.manager.set_aspired("m", {})
    running.wait({1: State.END})
    gate.open("slow", 1)
    running.manager.stop()


def test_a_version_removed_while_it_loads_ends_as_cancelled_and_may_come_back() -> None:
    gate = Gate()
    running = Running(gate.load)
    running.manager.set_aspired("m", {1: "/1"})
    assert gate.begun.get(timeout=30) == ("m", 1)
    running.manager.set_aspired("m", {})
    gate.open("m", 1)
    running.wait({1: State.END})
    (status,) = running.board.versions("m")
    assert str(status.error) == "CANCELLED: Loading of servable cancelled"
    running.manager.set_aspired("m", {1: "/1"})
    running.wait({1: State.AVAILABLE})
    running.manager.stop()


def test_a_version_cancelled_between_attempts_may_come_back() -> None:
    running = Running(max_retries=5, retry_seconds=9e12)
    running.manager.set_aspired("m", {1: "bad"})
    wait_until(lambda: running.manager._table.models["m"][1].attempts == 1, "the first attempt failed")
    running.manager.set_aspired("m", {})
    running.wait({1: State.END})
    running.manager.set_aspired("m", {1: "/good"})
    running.wait({1: State.AVAILABLE})
    running.manager.stop()


def test_a_version_that_cannot_be_closed_ends_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn(Servable):
        def close(self) -> None:
            raise RuntimeError("no")

    running = Running(lambda model, version, path: Stubborn(path))  # noqa: ARG005
    running.manager.set_aspired("m", {1: "/1"})
    running.wait({1: State.AVAILABLE})
    running.manager.set_aspired("m", {})
    running.wait({1: State.END})
    assert "could not be closed properly" in caplog.text
    running.manager.stop()


def test_an_unexpected_error_of_a_load_ends_the_version_not_the_manager() -> None:
    def surprising(model: str, version: int, path: str) -> Servable:
        if version == 1:
            raise ZeroDivisionError("surprise")
        return load(model, version, path)

    running = Running(surprising, max_retries=0)
    running.manager.set_aspired("m", {1: "/1"})
    running.wait({1: State.END})
    running.manager.set_aspired("m", {2: "/2"})
    running.wait({1: State.END, 2: State.AVAILABLE})
    running.manager.stop()


def test_a_load_that_failed_keeps_nothing_of_what_it_had_made() -> None:
    made: list[weakref.ref[Servable]] = []

    def load_and_fail(model: str, version: int, path: str) -> Servable:
        del model, version
        servable = Servable(path)
        made.append(weakref.ref(servable))
        raise invalid_argument("warm-up failed")

    running = Running(load_and_fail, max_retries=0)
    running.manager.set_aspired("m", {1: "large"})
    running.wait({1: State.END})
    running.manager.stop()
    wait_until(lambda: made[0]() is None, "the servable is gone")
    (status,) = running.board.versions("m")
    assert str(status.error) == "INVALID_ARGUMENT: warm-up failed"


def test_stop_closes_what_is_idle(running: Running) -> None:
    running.manager.set_aspired("m", {1: "/1"})
    running.wait({1: State.AVAILABLE})
    with running.manager.acquire("m") as handle:
        servable = handle.servable
    running.manager.stop()
    assert servable.closed


LEGAL = {
    None: {State.START},
    State.START: {State.LOADING, State.END},
    State.LOADING: {State.AVAILABLE, State.END},
    State.AVAILABLE: {State.UNLOADING},
    State.UNLOADING: {State.END},
    State.END: {State.START},
}


class RecordingBoard(StateBoard):
    """Checks every change of state as it is published."""

    def __init__(self) -> None:
        super().__init__()
        self.illegal: list[object] = []

    def publish(self, model, status) -> None:  # type: ignore[no-untyped-def]
        before = {entry.version: entry.state for entry in self.versions(model)}.get(status.version)
        if status.state not in LEGAL[before]:
            self.illegal.append((status.version, before, status.state))
        super().publish(model, status)


class ManagerMachine(RuleBasedStateMachine):
    """Random aspired sets, failing loads and handles, played step by step without threads."""

    def __init__(self) -> None:
        super().__init__()
        self.board = RecordingBoard()
        self.loaded: list[Servable] = []
        self.manager: Manager[Servable] = Manager(
            self._load,
            self.board,
            max_retries=1,
            retry_seconds=0,
            load_threads=2,
            unload_threads=2,
            forgotten=self._forget,
        )
        self.held: set[str] = set()
        self.under_way: list[Callable[[], None]] = []
        self.handles: list[Handle[Servable]] = []
        self.wanted: set[int] = set()
        self.failing = False

    def _load(self, model: str, version: int, path: str) -> Servable:
        if self.failing:
            raise invalid_argument("broken")
        servable = load(model, version, path)
        self.loaded.append(servable)
        self.held.add(path)  # as a cache holds what was fetched for it
        return servable

    def _forget(self, model: str, version: int, path: str) -> None:
        del model, version
        assert not any(servable.path == path and not servable.closed for servable in self.loaded)
        self.held.discard(path)

    def _available(self) -> set[int]:
        return {status.version for status in self.board.versions("m") if status.state is State.AVAILABLE}

    @rule(wanted=st.sets(st.integers(1, 3), max_size=2))
    def aspire(self, wanted: set[int]) -> None:
        self.wanted = wanted
        self.manager.set_aspired("m", {number: f"/{number}" for number in wanted})

    @rule(failing=st.booleans())
    def break_or_mend(self, failing: bool) -> None:
        self.failing = failing

    @rule()
    def begin(self) -> None:
        """What the manager's thread does: decide, and let another thread do it."""
        served = self._available()
        with self.manager._changed:
            work = self.manager._next_work()
        if work is not None:
            self.under_way.append(work)
        if served and self.wanted:
            assert self._available(), "the last good version went before another was loaded"

    @precondition(lambda self: self.under_way)
    @rule(choice=st.integers(0, 9))
    def finish(self, choice: int) -> None:
        """Some load or unload comes to its end."""
        self.under_way.pop(choice % len(self.under_way))()

    @precondition(lambda self: self._available())
    @rule()
    def take(self) -> None:
        handle = self.manager.acquire("m")
        assert handle.version == max(self._available())
        self.handles.append(handle)

    @precondition(lambda self: self.handles)
    @rule()
    def give_back(self) -> None:
        self.handles.pop(0).release()

    @invariant()
    def every_change_of_state_is_legal(self) -> None:
        assert self.board.illegal == []

    @invariant()
    def no_handle_outlives_its_model(self) -> None:
        assert not any(handle.servable.closed for handle in self.handles)

    def teardown(self) -> None:
        """Once nothing is wanted or used, everything is closed."""
        self.aspire(set())
        while self.handles:
            self.give_back()
        for _ in range(20):
            self.begin()
            while self.under_way:
                self.finish(0)
        assert all(servable.closed for servable in self.loaded)
        assert self._available() == set()
        assert self.held == set(), "what is gone is forgotten"


TestManagerMachine = ManagerMachine.TestCase
TestManagerMachine.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_what_is_neither_wanted_nor_loaded_is_forgotten_and_a_stop_forgets_nothing() -> None:
    forgotten: list[tuple[str, int, str]] = []
    manager: Manager[Servable] = Manager(
        load, board := StateBoard(), max_retries=0, forgotten=lambda *version: forgotten.append(version)
    )
    manager.start()

    def states() -> dict[int, State]:
        return {status.version: status.state for status in board.versions("m")}

    manager.set_aspired("m", {1: "one", 2: "bad"})
    wait_until(lambda: states() == {1: State.AVAILABLE, 2: State.END}, "1 is loaded and 2 has failed")
    with manager.acquire("m"):
        manager.set_aspired("m", {3: "three"})
        wait_until(lambda: states()[1] is State.UNLOADING, "1 is being unloaded")
        wait_until(lambda: forgotten == [("m", 2, "bad")], "2 is forgotten, and 1 is still in use")
    wait_until(lambda: forgotten[1:] == [("m", 1, "one")], "1 is forgotten")
    manager.stop()
    assert states()[3] is State.END
    assert len(forgotten) == 2
