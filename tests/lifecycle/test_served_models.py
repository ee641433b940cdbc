from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config.model_config import ModelConfig
from app.config.version_policy import VersionPolicy
from app.errors import ServingError, invalid_argument
from app.lifecycle.manager import Manager
from app.lifecycle.served_models import ServedModels
from app.lifecycle.sources import Sources
from app.lifecycle.states import State, StateBoard
from app.lifecycle.store import Stores
from tests.support.process import wait_until

EVERY = VersionPolicy(latest=None)


class Servable:
    def close(self) -> None:
        pass


def load(model: str, version: int, path: str) -> Servable:
    del model, path
    if version == 66:
        raise invalid_argument("broken")
    return Servable()


class Setting:
    """A real manager, source and board around `ServedModels`, with models that load at once."""

    def __init__(self, directory: Path, *, allow: bool = False) -> None:
        self.directory = directory
        self.board = StateBoard()
        self.manager: Manager[Servable] = Manager(load, self.board, max_retries=0)
        self.source = Sources(self.manager, 3600, Stores(), 3600)
        self.models = ServedModels(
            self.source, self.board, self.manager.labels, allow_labels_for_unavailable=allow
        )
        self.manager.start()
        self.source.start()

    def model(self, name: str, *versions: int, **more: object) -> ModelConfig:
        for version in versions:
            (self.directory / name / str(version)).mkdir(parents=True, exist_ok=True)
        return ModelConfig(name, str(self.directory / name), **more)  # type: ignore[arg-type]

    def states(self, name: str) -> dict[int, State]:
        return {status.version: status.state for status in self.board.versions(name)}

    def stop(self) -> None:
        self.source.stop()
        self.manager.stop()


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    setting = Setting(tmp_path)
    yield setting
    setting.stop()


def failure(setting: Setting, *models: ModelConfig, noun: str = "model") -> str:
    with pytest.raises(ServingError) as raised:
        setting.models.apply(models, noun=noun)
    return str(raised.value)


def test_models_come_and_go(setting: Setting) -> None:
    setting.models.apply([setting.model("a", 1), setting.model("b", 2)])
    assert (setting.states("a"), setting.states("b")) == ({1: State.AVAILABLE}, {2: State.AVAILABLE})
    setting.models.apply([setting.model("b"), setting.model("c", 3)])
    assert setting.states("c") == {3: State.AVAILABLE}
    wait_until(lambda: setting.states("a") == {1: State.END}, "a is unloaded")
    assert setting.states("b") == {2: State.AVAILABLE}
    setting.models.apply([])
    wait_until(lambda: setting.states("b") == {2: State.END}, "everything is unloaded")
    setting.models.apply([setting.model("a")])
    assert setting.states("a") == {1: State.AVAILABLE}


def test_a_changed_policy_loads_and_unloads(setting: Setting) -> None:
    setting.models.apply([setting.model("a", 1, 2)])
    wait_until(lambda: setting.states("a").get(2) is State.AVAILABLE, "the latest is available")
    setting.models.apply([setting.model("a", policy=EVERY)])
    wait_until(lambda: setting.states("a") == {1: State.AVAILABLE, 2: State.AVAILABLE}, "both")
    setting.models.apply([setting.model("a", policy=VersionPolicy(latest=None, specific=frozenset({1})))])
    wait_until(lambda: setting.states("a") == {1: State.AVAILABLE, 2: State.END}, "rolled back")


def test_a_new_model_that_fails_is_told_and_the_rest_is_in_force(setting: Setting) -> None:
    error = failure(setting, setting.model("bad", 66), setting.model("good", 1), noun="servable")
    assert error == (
        "UNKNOWN: 1 servable(s) did not become available: {{{name: bad version: 66} due to error: "
        "INVALID_ARGUMENT: broken}, }"
    )
    assert setting.states("good") == {1: State.AVAILABLE}


def test_a_model_that_failed_before_is_not_judged_by_its_past(setting: Setting) -> None:
    failure(setting, setting.model("a", 66))
    setting.models.apply([])
    wait_until(lambda: not setting.manager._table.models.get("a"), "the failed version is forgotten")
    (setting.directory / "a" / "66").rmdir()
    setting.models.apply([setting.model("a", 1)])
    assert setting.states("a") == {1: State.AVAILABLE, 66: State.END}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"platform": "hashmap"},
            "INVALID_ARGUMENT: Illegal to change a model's platform. For model a platform was tensorflow and "
            "new platform requested is hashmap",
        ),
        (
            {"labels": {"canary": 9}},
            "FAILED_PRECONDITION: Request to assign label to version 9 of model a, which is not currently "
            "available for inference",
        ),
    ],
)
def test_a_refused_configuration_changes_nothing(
    setting: Setting, more: dict[str, object], message: str
) -> None:
    setting.models.apply([setting.model("a", 1), setting.model("b", 1)])
    setting.models.apply([setting.model("a", labels={"stable": 1}), setting.model("b")])
    assert failure(setting, setting.model("a", **more)) == message
    assert setting.manager.labels.version("a", "stable") == 1
    assert (setting.states("a"), setting.states("b")) == ({1: State.AVAILABLE}, {1: State.AVAILABLE})
    setting.models.apply([setting.model("a")])  # and the next one is not held up


def test_an_unknown_platform_is_refused(setting: Setting) -> None:
    assert failure(setting, setting.model("a", 1, platform="x")) == (
        "INVALID_ARGUMENT: Model a requests unsupported platform x"
    )


def test_labels_move_to_available_versions(setting: Setting) -> None:
    setting.models.apply([setting.model("a", 1, 2, policy=EVERY)])
    wait_until(lambda: len(setting.states("a")) == 2, "both versions are known")
    wait_until(lambda: set(setting.states("a").values()) == {State.AVAILABLE}, "both are available")
    setting.models.apply([setting.model("a", policy=EVERY, labels={"stable": 1, "canary": 2})])
    setting.models.apply([setting.model("a", policy=EVERY, labels={"stable": 2})])
    assert setting.manager.labels.of("a") == {"stable": 2}


def test_with_the_flag_a_new_label_may_name_what_is_not_there_yet_but_may_not_move_there(
    tmp_path: Path,
) -> None:
    setting = Setting(tmp_path, allow=True)
    setting.models.apply([setting.model("a", 1, labels={"stable": 1, "next": 7})])
    assert setting.manager.labels.version("a", "next") == 7
    assert failure(setting, setting.model("a", labels={"stable": 8})).startswith(
        "FAILED_PRECONDITION: Request to assign label to version 8"
    )
    setting.stop()


def test_what_other_workers_serve_is_taken_over_with_its_labels_and_failures(setting: Setting) -> None:
    models = [setting.model("a", 1, labels={"stable": 1}), setting.model("bad", 66)]
    assert failure(setting, *models).startswith("FAILED_PRECONDITION: Request to assign label to version 1")
    setting.models.apply(models, served_elsewhere=True)
    assert setting.manager.labels.of("a") == {"stable": 1}
    assert setting.states("a") == {1: State.AVAILABLE}
    assert setting.states("bad") == {66: State.END}


def test_a_new_model_without_versions_is_waited_for(setting: Setting) -> None:
    config = setting.model("late")
    (setting.directory / "late").mkdir()
    applying = threading.Thread(target=setting.models.apply, args=([config],), daemon=True)
    applying.start()
    wait_until(lambda: "late" in setting.source._models, "the source looks for it")
    assert applying.is_alive()
    setting.model("late", 1)
    applying.join(30)
    assert setting.states("late") == {1: State.AVAILABLE}
