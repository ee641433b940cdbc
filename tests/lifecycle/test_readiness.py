from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest

from app.config.model_config import ModelConfig
from app.errors import Code, ServingError
from app.lifecycle.readiness import Condition, Missing, Readiness, missing_models
from app.lifecycle.states import State, StateBoard, VersionStatus
from tests.support.process import wait_until

READY, NOT_READY, DRAINING = Condition.READY, Condition.NOT_READY, Condition.DRAINING


def configured(*names: str) -> dict[str, ModelConfig]:
    return {name: ModelConfig(name, f"/models/{name}") for name in names}


class Watched:
    """A readiness over a board, with a subscriber that keeps what it is told."""

    def __init__(self, *names: str) -> None:
        self.board = StateBoard()
        self.models = configured(*names)
        self.readiness = Readiness(lambda: self.models, self.board)
        self.told: queue.SimpleQueue[Condition] = queue.SimpleQueue()

    def subscribe(self) -> None:
        self.unsubscribe = self.readiness.subscribe(self.told.put)

    def publish(self, model: str, version: int, state: State, error: ServingError | None = None) -> None:
        self.board.publish(model, VersionStatus(version, state, error))


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched("a", "b")
    watched.readiness.start()
    yield watched
    watched.readiness.stop()


def test_ready_means_that_every_configured_model_has_an_available_version() -> None:
    watched = Watched("a", "b")
    assert watched.readiness.condition() is NOT_READY
    watched.publish("a", 1, State.AVAILABLE)
    watched.publish("other", 1, State.LOADING)
    assert watched.readiness.condition() is NOT_READY
    watched.publish("b", 1, State.LOADING)
    watched.publish("b", 2, State.AVAILABLE)
    assert watched.readiness.condition() is READY
    watched.publish("b", 2, State.UNLOADING)
    assert watched.readiness.condition() is NOT_READY
    del watched.models["b"]
    assert watched.readiness.condition() is READY


def test_without_models_there_is_nothing_to_wait_for() -> None:
    assert Watched().readiness.condition() is READY


def test_what_is_missing_and_why() -> None:
    board = StateBoard()
    failed = ServingError(Code.NOT_FOUND, "no such file")
    for model, version, state, error in (
        ("fine", 1, State.AVAILABLE, None),
        ("loading", 3, State.END, failed),
        ("loading", 2, State.LOADING, None),
        ("failed", 4, State.END, None),
        ("failed", 5, State.END, failed),
    ):
        board.publish(model, VersionStatus(version, state, error))
    assert missing_models(configured("absent", "fine", "loading", "failed"), board) == [
        Missing("absent", None, None, "no version was found in /models/absent"),
        Missing("loading", 2, State.LOADING, ""),
        Missing("failed", 5, State.END, "NOT_FOUND: no such file"),
    ]


def test_subscribers_are_told_at_once_and_of_changes_only(watched: Watched) -> None:
    watched.subscribe()
    assert watched.told.get(timeout=30) is NOT_READY
    watched.publish("a", 1, State.AVAILABLE)
    watched.publish("b", 1, State.AVAILABLE)
    assert watched.told.get(timeout=30) is READY
    watched.publish("b", 1, State.UNLOADING)
    assert watched.told.get(timeout=30) is NOT_READY
    watched.models = configured("a")
    watched.board.wake()
    assert watched.told.get(timeout=30) is READY
    assert watched.told.empty()


def test_a_drain_is_told_before_begin_drain_returns_whatever_held_before(watched: Watched) -> None:
    watched.subscribe()
    assert watched.told.get_nowait() is NOT_READY
    watched.readiness.begin_drain()
    assert watched.told.get_nowait() is DRAINING
    assert watched.readiness.draining
    watched.publish("a", 1, State.AVAILABLE)
    watched.publish("b", 1, State.AVAILABLE)
    assert watched.readiness.condition() is DRAINING
    watched.subscribe()
    assert watched.told.get_nowait() is DRAINING
    assert watched.told.empty()


def test_who_unsubscribed_is_told_no_more(watched: Watched) -> None:
    watched.subscribe()
    watched.unsubscribe()
    other: list[Condition] = []
    watched.readiness.subscribe(other.append)
    watched.readiness.begin_drain()
    wait_until(lambda: other[-1] is DRAINING, "the other subscriber knows")
    assert watched.told.get_nowait() is NOT_READY
    assert watched.told.empty()


def test_stop_ends_the_thread_even_if_it_was_never_started() -> None:
    Watched("a").readiness.stop()
