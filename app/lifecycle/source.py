"""The file system source: looks at base paths and tells the manager which versions are wanted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Protocol

from app.lifecycle import policy
from app.lifecycle.storage import BasePathError, Settling, list_versions
from app.lifecycle.watcher import Watcher

logger = logging.getLogger(__name__)

# How soon to look again at a directory that is still being copied.
_SETTLING_LOOK_SECONDS = 0.25


class AspiredVersionsTarget(Protocol):
    """Who is told: the manager."""

    def set_aspired(self, model: str, versions: Mapping[int, str]) -> None:
        """Take the FULL set of wanted versions of `model` (number to path)."""


class FileSystemSource:
    """One thread that looks at every base path, at events and at every poll.

    A base path that cannot be read changes nothing for its model, nor for any other; what is wrong
    with it is logged once, not at every look.
    """

    def __init__(
        self, base_paths: Mapping[str, str], target: AspiredVersionsTarget, poll_seconds: float
    ) -> None:
        """Prepare a source.

        Args:
            base_paths: base path by model name.
            target: told the versions to have after every look.
            poll_seconds: time between looks; 0 looks once, below 0 never.
        """
        self._base_paths = dict(base_paths)
        self._target = target
        self._poll_seconds = poll_seconds
        self._settling = Settling()
        self._reported: dict[str, str] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._watcher = Watcher(self._wake.set)
        self._thread = threading.Thread(target=self._run, name="ferry-source", daemon=True)

    def start(self) -> None:
        """Begin to look, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and its watches."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        if self._poll_seconds < 0:
            logger.warning("--file_system_poll_wait_seconds is negative: no version will ever be looked for.")
            return
        if self._poll_seconds == 0:
            while self.look() and not self._stopping:  # a copy under way is waited for
                self._wake.wait(_SETTLING_LOOK_SECONDS)
            return
        self._watcher.start()
        try:
            while not self._stopping:
                # Cleared before the look: what happens during it makes the next one come at once.
                self._wake.clear()
                for path in self._base_paths.values():
                    self._watcher.watch(path)
                unsettled = self.look()
                self._wake.wait(_SETTLING_LOOK_SECONDS if unsettled else self._poll_seconds)
        finally:
            self._watcher.stop()

    def look(self) -> bool:
        """Look at every base path once and tell the target.

        Returns:
            Whether some version is still being copied, so that another look should follow soon.
        """
        unsettled = False
        seen: set[str] = set()
        for model, base_path in self._base_paths.items():
            try:
                listing = list_versions(model, base_path)
            except BasePathError as error:
                self._report(
                    model, f"FileSystemStoragePathSource encountered a filesystem access error: {error}"
                )
                continue
            seen.update(listing.versions.values())
            complete = {
                number: path for number, path in listing.versions.items() if self._settling.is_complete(path)
            }
            copying = sorted(listing.versions.keys() - complete.keys())
            unsettled = unsettled or bool(copying)
            self._report(
                model, self._problem(model, base_path, listing.versions, listing.duplicates, copying)
            )
            wanted = policy.latest(complete)
            if complete or not copying:
                self._target.set_aspired(model, {number: complete[number] for number in wanted})
        self._settling.forget_all_but(seen)
        return unsettled

    def _problem(
        self,
        model: str,
        base_path: str,
        versions: Mapping[int, str],
        duplicates: tuple[str, ...],
        copying: list[int],
    ) -> str:
        if not versions:
            return (
                f"No versions of servable {model} found under base path {base_path}. Did you forget to "
                f"name your leaf directory as a number (eg. '/1/')?"
            )
        waiting = (f"Version {number} of servable {model} is still being written." for number in copying)
        return " ".join((*duplicates, *waiting))

    def _report(self, model: str, problem: str) -> None:
        """Log `problem` of `model` if it is not what was logged last."""
        if problem and self._reported.get(model) != problem:
            logger.warning("%s", problem)
        self._reported[model] = problem
