from __future__ import annotations

import queue
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.lifecycle.watcher import Watcher


@pytest.fixture
def noticed() -> threading.Event:
    return threading.Event()


@pytest.fixture
def watcher(noticed: threading.Event) -> Iterator[Watcher]:
    watcher = Watcher(lambda _: noticed.set())
    watcher.start()
    yield watcher
    watcher.stop()


def test_entries_that_appear_move_or_go_are_noticed(
    watcher: Watcher, noticed: threading.Event, tmp_path: Path
) -> None:
    watched = tmp_path / "model"
    watched.mkdir()
    watcher.watch(str(watched))
    for action in (
        (watched / "1").mkdir,
        lambda: (watched / "1").rename(watched / "2"),
        (watched / "2").rmdir,
    ):
        noticed.clear()
        action()
        assert noticed.wait(30)


@pytest.mark.parametrize("origin", ["model/.staging", "elsewhere"])
def test_a_rename_into_the_directory_is_told_with_its_path(tmp_path: Path, origin: str) -> None:
    told: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    watcher = Watcher(told.put)
    watcher.start()
    watched = tmp_path / "model"
    watched.mkdir()
    (tmp_path / origin).mkdir()
    watcher.watch(str(watched))
    (tmp_path / origin).rename(watched / "1")
    while (path := told.get(timeout=30)) is None:
        pass  # the half of the rename that left
    assert path == f"{watched}/1"
    (watched / "2").mkdir()
    assert told.get(timeout=30) is None
    watcher.stop()


def test_looking_is_not_an_event(watcher: Watcher, noticed: threading.Event, tmp_path: Path) -> None:
    watched = tmp_path / "model"
    watched.mkdir()
    (watched / "1").mkdir()
    watcher.watch(str(watched))
    list(watched.iterdir())
    # Events come in order: once the later one has come, the look would have come too.
    assert not noticed.is_set()
    (watched / "2").mkdir()
    assert noticed.wait(30)


def test_a_directory_that_replaces_the_watched_one_is_watched_anew(
    watcher: Watcher, noticed: threading.Event, tmp_path: Path
) -> None:
    watched = tmp_path / "model"
    watcher.watch(str(watched))  # missing: nothing to watch yet
    watched.mkdir()
    watcher.watch(str(watched))
    watched.rename(tmp_path / "old")
    watched.mkdir()
    watcher.watch(str(watched))
    noticed.clear()
    (watched / "1").mkdir()
    assert noticed.wait(30)


def test_without_events_a_warning_names_the_way_out(
    watcher: Watcher, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    # The limit belongs to the machine and cannot be lowered for a test.
    monkeypatch.setattr(watcher._observer, "schedule", exhausted)
    watcher.watch(str(tmp_path))
    watcher.watch(str(tmp_path))
    (message,) = caplog.messages
    assert "found by polling only" in message


def test_without_an_inotify_instance_the_same_is_said_and_nothing_else_happens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # No file descriptor is left, which is how the kernel answers for too many instances as well.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        watcher = Watcher(lambda _: None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    watcher.start()
    watcher.watch_only({str(tmp_path)})
    watcher.watch_only(set())
    watcher.stop()
    (message,) = [record.getMessage() for record in caplog.records]
    assert "new versions are found by polling only" in message
