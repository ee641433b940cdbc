"""File system events for base paths, through watchdog.

Events only say "look again": what is there is always read anew, so that a lost or doubled event
does no harm. One thing only an event can tell: that a directory was renamed into place, and so is
complete. Where events cannot be had (network file systems, exhausted inotify limits) polling
remains.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import ObservedWatch
from watchdog.observers.inotify import InotifyObserver
from watchdog.observers.inotify_move_event_grouper import InotifyMoveEventGrouper

logger = logging.getLogger(__name__)

# Opening and reading are events too: without a filter every look would cause the next one.
_EVENTS: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileDeletedEvent,
]


# watchdog holds the first half of a rename back for so long, waiting for the second: half a second. Here
# the halves may as well come one by one.
InotifyMoveEventGrouper.delay = 0.0


class _Notify(FileSystemEventHandler):
    def __init__(self, callback: Callable[[str | None], None]) -> None:
        self._callback = callback

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._callback(os.fsdecode(event.dest_path) or None)


class Watcher:
    """Calls back when an entry of a watched directory appears, moves or goes.

    Not thread-safe: `start`, `watch` and `stop` belong to one thread. The callback comes from
    watchdog's thread.
    """

    def __init__(self, callback: Callable[[str | None], None]) -> None:
        """Call `callback` at each event, with the new path of what was renamed, None for all else."""
        self._handler = _Notify(callback)
        # Full events: what is renamed from elsewhere counts as a rename too, not as a creation.
        try:
            self._observer: InotifyObserver | None = InotifyObserver(generate_full_events=True)
        except OSError as error:  # no inotify instance, or no file descriptor, is left
            self._observer = None
            logger.warning("No file system events (%s): new versions are found by polling only.", error)
        self._watches: dict[str, tuple[ObservedWatch, tuple[int, int]]] = {}
        self._failed: set[str] = set()

    def start(self) -> None:
        """Begin to deliver events."""
        if self._observer is not None:
            self._observer.start()

    def watch_only(self, paths: set[str]) -> None:
        """Watch these directories and no others."""
        for path in self._watches.keys() - paths:
            self._unwatch(path)
        for path in paths:
            self.watch(path)

    def watch(self, path: str) -> None:
        """Watch the directory at `path`, or watch it anew if another one stands there now.

        Cheap to call at every look. A path that is missing is ignored until it exists.
        """
        if self._observer is None:
            return
        try:
            status = os.stat(path)
        except OSError:
            self._unwatch(path)
            return
        identity = (status.st_dev, status.st_ino)
        if path in self._watches and self._watches[path][1] == identity:
            return
        self._unwatch(path)
        try:
            watch = self._observer.schedule(self._handler, path, event_filter=_EVENTS)
        except OSError as error:
            if path not in self._failed:
                self._failed.add(path)
                logger.warning(
                    "No file system events for %s (%s): new versions are found by polling only.", path, error
                )
            return
        self._failed.discard(path)
        self._watches[path] = (watch, identity)

    def _unwatch(self, path: str) -> None:
        watched = self._watches.pop(path, None)
        if watched is not None and self._observer is not None:
            self._observer.unschedule(watched[0])

    def stop(self) -> None:
        """End the watches and watchdog's threads."""
        if self._observer is None:
            return
        self._observer.stop()
        if self._observer.is_alive():
            self._observer.join()
