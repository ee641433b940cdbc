"""The file system source: looks at base paths and tells the manager which versions are wanted."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.config.version_policy import VersionPolicy
from app.lifecycle.storage import BasePathError, Listing, Settling, list_versions, read_entries
from app.lifecycle.watcher import Watcher

logger = logging.getLogger(__name__)

# How soon to look again at a directory that is still being copied.
_SETTLING_LOOK_SECONDS = 0.25


class AspiredVersionsTarget(Protocol):
    """Who is told: the manager."""

    def set_aspired(self, model: str, versions: Mapping[int, str]) -> None:
        """Take the FULL set of wanted versions of `model` (number to path)."""


@dataclass(frozen=True)
class SourceModel:
    """A model to look for.

    Attributes:
        base_path: the directory that holds its versions.
        policy: which of them are wanted.
    """

    base_path: str
    policy: VersionPolicy = field(default_factory=VersionPolicy)


@dataclass(frozen=True)
class _Look:
    """What the last look at a model saw. While nothing of it changes, nothing has to be done."""

    model: SourceModel
    entries: frozenset[tuple[str, int]]
    paths: frozenset[str]
    copying: tuple[int, ...]


class FileSystemSource:
    """One thread that looks at every base path, at events and at every poll.

    A base path that cannot be read changes nothing for its model, nor for any other; what is wrong
    with it is logged once, not at every look.
    """

    def __init__(self, target: AspiredVersionsTarget, poll_seconds: float) -> None:
        """Prepare a source without models.

        Args:
            target: told the versions to have after every look.
            poll_seconds: time between looks; 0 looks once, below 0 never.
        """
        # Held while the models change and while the target is told, so that a look at what was
        # configured before never undoes a change.
        self._lock = threading.Lock()
        self._models: Mapping[str, SourceModel] = {}
        self._target = target
        self._poll_seconds = poll_seconds
        self._settling = Settling()
        self._renamed: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._looks: dict[str, _Look] = {}
        self._reported: dict[str, str] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._watcher = Watcher(self._noticed)
        self._thread = threading.Thread(target=self._run, name="ferry-source", daemon=True)

    def set_models(self, models: Mapping[str, SourceModel]) -> None:
        """Look for exactly these models from now on; versions of others are no longer wanted."""
        with self._lock:
            for name in self._models.keys() - models.keys():
                self._target.set_aspired(name, {})
                self._reported.pop(name, None)
            self._models = dict(models)
        self._wake.set()

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
            # Once there are models; a copy under way is waited for.
            while (self.look() or not self._models) and not self._stopping:
                self._wake.wait(_SETTLING_LOOK_SECONDS)
            return
        self._watcher.start()
        try:
            while not self._stopping:
                # Cleared before the look: what happens during it makes the next one come at once.
                self._wake.clear()
                self._watcher.watch_only({model.base_path for model in self._models.values()})
                unsettled = self.look()
                self._wake.wait(_SETTLING_LOOK_SECONDS if unsettled else self._poll_seconds)
        finally:
            self._watcher.stop()

    def _noticed(self, renamed: str | None) -> None:
        """Look again; called in watchdog's thread."""
        if renamed is not None:
            self._renamed.put(renamed)
        self._wake.set()

    def look(self) -> bool:
        """Look at every base path once and tell the target.

        Returns:
            Whether some version is still being copied, so that another look should follow soon.
        """
        while not self._renamed.empty():
            self._settling.trust(self._renamed.get())
        unsettled = changed = False
        for name, model in self._models.items():
            try:
                entries = read_entries(name, model.base_path)
            except BasePathError as error:
                self._looks.pop(name, None)
                self._report(
                    name, f"FileSystemStoragePathSource encountered a filesystem access error: {error}"
                )
                continue
            last = self._looks.get(name)
            if last is None or last.copying or last.model is not model or last.entries != entries:
                self._look_at(name, model, entries)
                unsettled = unsettled or bool(self._looks[name].copying)
                changed = True
        for gone in self._looks.keys() - self._models.keys():
            del self._looks[gone]
            changed = True
        if changed:
            self._settling.forget_all_but({path for look in self._looks.values() for path in look.paths})
        return unsettled

    def _look_at(self, name: str, model: SourceModel, entries: frozenset[tuple[str, int]]) -> None:
        """Tell the target what is wanted of `entries`, and remember them."""
        listing = list_versions(model.base_path, (entry for entry, _ in entries))
        paths = listing.versions
        complete = {number: path for number, path in paths.items() if self._settling.is_complete(path)}
        copying = tuple(sorted(paths.keys() - complete.keys()))
        self._looks[name] = _Look(model, entries, frozenset(paths.values()), copying)
        self._report(name, _problem(name, model, listing, copying))
        if complete or not copying:
            self._tell(name, model, complete)

    def _tell(self, name: str, model: SourceModel, complete: Mapping[int, str]) -> None:
        """Tell the target what is wanted of `complete`, unless the model has changed meanwhile."""
        with self._lock:
            if self._models.get(name) is model:
                wanted = model.policy.select(complete)
                self._target.set_aspired(name, {number: complete[number] for number in wanted})

    def _report(self, name: str, problem: str) -> None:
        """Log `problem` of a model if it is not what was logged last."""
        if problem and self._reported.get(name) != problem:
            logger.warning("%s", problem)
        self._reported[name] = problem


def _problem(name: str, model: SourceModel, listing: Listing, copying: Sequence[int]) -> str:
    """What a user should know of a base path; empty if all is well."""
    if not listing.versions:
        return (
            f"No versions of servable {name} found under base path {model.base_path}. Did you forget to "
            f"name your leaf directory as a number (eg. '/1/')?"
        )
    told = [*listing.duplicates]
    if copying:
        which = f"Version {copying[0]}" if len(copying) == 1 else f"Versions {', '.join(map(str, copying))}"
        told.append(f"{which} of servable {name} {'is' if len(copying) == 1 else 'are'} still being written.")
    missing = sorted((model.policy.specific or frozenset()) - listing.versions.keys())
    told += [f"Version {number} of servable {name} was requested but is not there." for number in missing]
    if model.policy.specific is not None and not model.policy.specific:
        told.append(f"No specific versions requested for servable {name}.")
    return " ".join(told)
