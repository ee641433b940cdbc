from __future__ import annotations

import queue
from collections.abc import Mapping
from pathlib import Path

import pytest

from app.config.version_policy import VersionPolicy
from app.lifecycle.source import FileSystemSource, SourceModel
from app.lifecycle.storage import Settling


class Target:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: queue.SimpleQueue[tuple[str, dict[int, str]]] = queue.SimpleQueue()

    def set_aspired(self, model: str, versions: Mapping[int, str]) -> None:
        self.told.put((model, dict(versions)))


def looking_at(base_paths: Mapping[str, Path], target: Target, poll_seconds: float) -> FileSystemSource:
    source = FileSystemSource(target, poll_seconds)
    source.set_models({name: SourceModel(str(path)) for name, path in base_paths.items()})
    return source


def version(base_path: Path, name: str) -> Path:
    """A version directory without files, which is complete as soon as it is old enough."""
    path = base_path / name
    path.mkdir(parents=True)
    return path


def wait_for(target: Target, expected: tuple[str, dict[int, str]]) -> None:
    while target.told.get(timeout=30) != expected:
        pass


def test_a_look_tells_the_latest_version(tmp_path: Path) -> None:
    target = Target()
    for name in ("1", "2", "10"):
        version(tmp_path, name)
    source = looking_at({"m": tmp_path}, target, 1)
    while source.look():
        pass
    wait_for(target, ("m", {10: f"{tmp_path}/10"}))


def test_a_new_version_is_told_by_its_event_long_before_the_next_poll(tmp_path: Path) -> None:
    target = Target()
    version(tmp_path, "1")
    source = looking_at({"m": tmp_path}, target, 3600)
    source.start()
    wait_for(target, ("m", {1: f"{tmp_path}/1"}))
    version(tmp_path, "2")
    wait_for(target, ("m", {2: f"{tmp_path}/2"}))
    source.stop()


def test_a_version_that_is_renamed_into_place_is_told_at_once(tmp_path: Path) -> None:
    target = Target()
    source = looking_at({"m": tmp_path / "m"}, target, 3600)
    assert source._local is not None
    source._local._settling = Settling(quiet_seconds=3600)  # by settling it would not be told today
    (tmp_path / "m").mkdir()
    source.start()
    wait_for(target, ("m", {}))
    staged = version(tmp_path, "staged")
    (staged / "saved_model.pb").write_bytes(b"x")
    staged.rename(tmp_path / "m" / "1")
    wait_for(target, ("m", {1: f"{tmp_path}/m/1"}))
    source.stop()


def test_as_long_as_nothing_changes_nothing_is_told_again(tmp_path: Path) -> None:
    target = Target()
    version(tmp_path, "1")
    source = looking_at({"m": tmp_path}, target, 1)
    while source.look():
        pass
    wait_for(target, ("m", {1: f"{tmp_path}/1"}))
    source.look()
    assert target.told.empty()
    version(tmp_path, "2")
    while source.look():
        pass
    wait_for(target, ("m", {2: f"{tmp_path}/2"}))


def test_an_empty_base_path_wants_nothing_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = Target()
    source = looking_at({"m": tmp_path}, target, 1)
    source.look()
    source.look()
    assert target.told.get() == ("m", {})
    assert caplog.messages == [
        f"No versions of servable m found under base path {tmp_path}. Did you forget to name your leaf "
        "directory as a number (eg. '/1/')?"
    ]


def test_a_missing_base_path_changes_nothing_for_any_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = Target()
    version(tmp_path / "good", "1")
    source = looking_at({"bad": tmp_path / "bad", "good": tmp_path / "good"}, target, 1)
    while source.look():
        pass
    wait_for(target, ("good", {1: f"{tmp_path}/good/1"}))
    assert target.told.empty()
    assert len([text for text in caplog.messages if "Could not find base path" in text]) == 1


def test_what_is_wrong_is_told_again_after_it_was_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = looking_at({"m": tmp_path}, Target(), 1)
    source.look()
    directory = version(tmp_path, "1")
    source.look()
    directory.rmdir()
    source.look()
    assert len([text for text in caplog.messages if "No versions of servable m" in text]) == 2


def test_polling_zero_looks_once(tmp_path: Path) -> None:
    target = Target()
    source = looking_at({"m": tmp_path}, target, 0)
    source.start()
    source._thread.join(30)
    assert not source._thread.is_alive()
    assert target.told.get() == ("m", {})
    assert target.told.empty()


def test_polling_below_zero_never_looks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = Target()
    source = looking_at({"m": tmp_path}, target, -1)
    source.start()
    source._thread.join(30)
    assert target.told.empty()
    assert "no version will ever be looked for" in caplog.text


def test_models_that_are_no_longer_configured_are_wanted_no_more(tmp_path: Path) -> None:
    target = Target()
    for name in ("a", "b"):
        version(tmp_path / name, "1")
    source = looking_at({"a": tmp_path / "a"}, target, 3600)
    source.start()
    wait_for(target, ("a", {1: f"{tmp_path}/a/1"}))
    source.set_models({"b": SourceModel(str(tmp_path / "b"))})
    wait_for(target, ("a", {}))
    wait_for(target, ("b", {1: f"{tmp_path}/b/1"}))
    source.stop()


def test_the_policy_selects_and_missing_versions_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = Target()
    for name in ("1", "2", "3"):
        version(tmp_path, name)
    source = FileSystemSource(target, 1)
    source.set_models({"m": SourceModel(str(tmp_path), VersionPolicy(specific=frozenset({1, 3, 9})))})
    while source.look():
        pass
    wait_for(target, ("m", {1: f"{tmp_path}/1", 3: f"{tmp_path}/3"}))
    assert "Version 9 of servable m was requested but is not there." in caplog.text
