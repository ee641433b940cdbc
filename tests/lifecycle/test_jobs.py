"""What becomes of a version; who works on which one, and when, is tested in test_manager.py."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from app.errors import Code, invalid_argument
from app.lifecycle.black_box import BlackBox
from app.lifecycle.jobs import Jobs
from app.lifecycle.states import State, StateBoard
from app.lifecycle.version import Version
from app.lifecycle.version_table import VersionTable


class Servable:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Setting:
    """Jobs on a table with versions of the model m; each is run by the test itself."""

    def __init__(self, *versions: int, **limits: Any) -> None:
        self.board = StateBoard()
        self.table = VersionTable[Servable](self.board)
        self.table.models["m"] = {}
        self.failure: Exception | None = None
        self.forgotten: list[tuple[str, int, str]] = []
        settings = {
            "max_retries": 1,
            "retry_seconds": 0.0,
            "load_threads": 1,
            "unload_threads": 1,
            "initial_load_threads": 1,
        }
        self.jobs = Jobs(
            self.table,
            self._load,
            BlackBox(),
            forgotten=lambda *version: self.forgotten.append(version),
            **settings | limits,
        )
        for number in versions:
            self.table.begin("m", number, f"/{number}")

    def _load(self, model: str, number: int, path: str) -> Servable:
        assert (model, path) == ("m", f"/{number}")
        if self.failure is not None:
            raise self.failure
        return Servable()

    def load(self, number: int = 1) -> Version[Servable]:
        version = self.table.models["m"][number]
        self.table.publish(version, State.LOADING)
        self.jobs.begin_load(version)()
        return version

    def state(self, number: int = 1) -> State:
        return {status.version: status.state for status in self.board.versions("m")}[number]


def test_what_is_loaded_is_available_and_what_is_unloaded_is_closed() -> None:
    setting = Setting(1)
    version = setting.load()
    assert (setting.state(), version.busy, setting.table.newest) == (State.AVAILABLE, False, {"m": version})
    servable = version.servable
    assert servable is not None
    setting.table.publish(version, State.UNLOADING)
    unload = setting.jobs.begin_unload(version)
    assert unload is not None
    assert version.busy
    unload()
    assert servable.closed
    assert (setting.state(), version.busy, version.servable) == (State.END, False, None)


def test_as_many_load_at_a_time_as_it_is_told_and_at_the_start_more() -> None:
    setting = Setting(1, 2, 3, load_threads=1, initial_load_threads=2)
    first, second, _ = setting.table
    jobs = [setting.jobs.begin_load(first)]
    assert setting.jobs.may_load()
    jobs.append(setting.jobs.begin_load(second))
    assert not setting.jobs.may_load()
    setting.jobs.initial_loads_done()
    for job, may_load in zip(jobs, (False, True), strict=True):
        job()
        assert setting.jobs.may_load() is may_load


def test_as_many_unload_at_a_time_as_it_is_told() -> None:
    setting = Setting(1, 2)
    first, second = setting.load(1), setting.load(2)
    unload = setting.jobs.begin_unload(first)
    assert unload is not None
    assert setting.jobs.begin_unload(second) is None
    assert not second.busy
    unload()
    assert setting.jobs.begin_unload(second) is not None


def test_a_load_that_fails_is_told_once_and_ends_with_its_last_attempt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setting = Setting(1, max_retries=2)
    setting.failure = invalid_argument("broken")
    for state in (State.LOADING, State.LOADING, State.END):
        version = setting.load()
        assert setting.state() is state
    assert (version.attempts, version.busy, setting.jobs.may_load()) == (3, False, True)
    error = setting.board.versions("m")[0].error
    assert error is not None
    assert error.message == "broken"
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "Loading servable: {name: m version: 1} failed: INVALID_ARGUMENT: broken It is tried again up to "
        "2 times, every 0 s.",
        "Servable {name: m version: 1} cannot be loaded: given up after 3 attempts.",
    ]


def test_an_unexpected_error_ends_as_any_other() -> None:
    setting = Setting(1, max_retries=0)
    setting.failure = RuntimeError("a bug")
    setting.load()
    error = setting.board.versions("m")[0].error
    assert error is not None
    assert "a bug" in error.message


def test_what_was_left_out_while_it_loaded_is_closed_again() -> None:
    setting = Setting(1)
    version = setting.table.models["m"][1]
    version.aspired = False
    setting.load()
    (status,) = setting.board.versions("m")
    assert status.state is State.END
    assert status.error is not None
    assert (status.error.code, version.servable) == (Code.CANCELLED, None)


@pytest.mark.parametrize("tried", [False, True])
def test_what_is_cancelled_has_an_error_if_it_was_tried(tried: bool) -> None:
    setting = Setting(1)
    (version,) = setting.table
    if tried:
        setting.failure = invalid_argument("broken")
        setting.load()
    setting.jobs.cancel(version)
    (status,) = setting.board.versions("m")
    assert status.state is State.END
    assert (status.error is not None) is tried


def test_what_is_forgotten_is_told_and_may_begin_anew() -> None:
    setting = Setting(1, 2)
    for version in setting.table:
        version.aspired = version.number == 2  # which came back meanwhile
        setting.table.publish(version, State.END)
        job = setting.jobs.begin_forget(version)
        assert version.forgetting
        job()
    assert setting.forgotten == [("m", 1, "/1"), ("m", 2, "/2")]
    assert {version.number: version.state for version in setting.table} == {2: State.START}
