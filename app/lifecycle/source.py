"""A source looks at base paths and tells the manager which versions are wanted."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from app.config.version_policy import VersionPolicy
from app.lifecycle.storage import BasePathError, Listing, LocalStorage, Storage
from app.lifecycle.watcher import Watcher

logger = logging.getLogger(__name__)


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
    listing: Listing
    copying: Mapping[int, str]


class FileSystemSource:
    """One thread that looks at every base path, at events and at every poll.

    A base path that cannot be read changes nothing for its model, nor for any other; what is wrong
    with it is logged once, not at every look.
    """

    def __init__(
        self,
        target: AspiredVersionsTarget,
        poll_seconds: float,
        storage: Storage | None = None,
        *,
        name: str = "ferry-source",
        skipped: Container[str] = (),
    ) -> None:
        """Prepare a source without models.

        Args:
            target: told the versions to have after every look.
            poll_seconds: time between looks; 0 looks once, below 0 never.
            storage: where the base paths are; local directories, with events, if None.
            name: of the thread.
            skipped: paths of versions that are as good as absent.
        """
        self._skipped = skipped
        # Held while the models change and while the target is told, so that a look at what was
        # configured before never undoes a change.
        self._lock = threading.Lock()
        self._models: Mapping[str, SourceModel] = {}
        self._target = target
        self._poll_seconds = poll_seconds
        self._local = LocalStorage() if storage is None else None
        self._storage: Storage = storage or self._local or LocalStorage()
        self._renamed: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._looks: dict[str, _Look] = {}
        self._reported: dict[str, str] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._watcher = Watcher(self._noticed) if storage is None else None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def set_models(self, models: Mapping[str, SourceModel], *, elsewhere: Container[str] = ()) -> None:
        """Look for exactly these models from now on.

        Versions of others are no longer wanted, unless another source looks for them: `elsewhere`.
        """
        with self._lock:
            for name in self._models.keys() - models.keys():
                if name not in elsewhere:
                    self._target.set_aspired(name, {})
                self._reported.pop(name, None)
            self._models = dict(models)
        self._wake.set()

    def start(self) -> None:
        """Begin to look, in a thread of its own."""
        self._thread.start()

    def stop(self, *, wait: bool = True) -> None:
        """End the thread and its watches; without `wait`, once the look under way is done."""
        self._stopping = True
        self._wake.set()
        if wait and self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        if self._poll_seconds < 0:
            logger.warning("--file_system_poll_wait_seconds is negative: no version will ever be looked for.")
            return
        if self._poll_seconds == 0:
            # Once there are models; a copy under way is waited for.
            while (self.look() or not self._models) and not self._stopping:
                self._wake.wait(self._storage.look_again_seconds)
            return
        if self._watcher is not None:
            self._watcher.start()
        try:
            while not self._stopping:
                # Cleared before the look: what happens during it makes the next one come at once.
                self._wake.clear()
                if self._watcher is not None:
                    self._watcher.watch_only({model.base_path for model in self._models.values()})
                unsettled = self.look()
                soon = min(self._storage.look_again_seconds, self._poll_seconds)
                self._wake.wait(soon if unsettled else self._poll_seconds)
        finally:
            if self._watcher is not None:
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
        while self._local is not None and not self._renamed.empty():
            self._local.trust(self._renamed.get())
        failed = changed = False
        for name, model in self._models.items():
            try:
                changed = self._look_at(name, model) or changed
            except BasePathError as error:
                failed = True
                self._report(
                    name, f"FileSystemStoragePathSource encountered a filesystem access error: {error}"
                )
        for gone in self._looks.keys() - self._models.keys():
            del self._looks[gone]
        if changed and not failed:  # what cannot be seen for a moment has not gone
            self._storage.forget_all_but(
                {path for look in self._looks.values() for path in look.listing.versions.values()}
            )
        return any(look.copying for look in self._looks.values())

    def _look_at(self, name: str, model: SourceModel) -> bool:
        """Look at one model, and tell the target if there was a change.

        Raises:
            BasePathError: what it has cannot be found out.
        """
        listing = self._storage.list_versions(name, model.base_path)
        last = self._looks.get(name)
        if last is not None and last.listing is listing and last.model is model and not last.copying:
            return False
        complete, copying = self._complete(model, listing)
        self._looks[name] = _Look(model, listing, copying)
        self._report(name, _problem(name, model, listing, copying))
        if complete or not copying:
            self._tell(name, model, complete)
        return True

    def _complete(self, model: SourceModel, listing: Listing) -> tuple[dict[int, str], dict[int, str]]:
        """The versions without those still being written, and why each of these is.

        Only versions that the policy would choose are asked about: that costs requests.
        """
        complete = {number: path for number, path in listing.versions.items() if path not in self._skipped}
        copying: dict[int, str] = {}
        while True:
            found = {
                number: why
                for number in model.policy.select(complete)
                if (why := self._storage.unfinished(complete[number])) is not None
            }
            if not found:
                return complete, copying
            copying |= found
            complete = {number: path for number, path in complete.items() if number not in found}

    def _tell(self, name: str, model: SourceModel, complete: Mapping[int, str]) -> None:
        """Tell the target what is wanted of `complete`, unless the model has changed meanwhile."""
        with self._lock:
            if self._models.get(name) is model:
                wanted = model.policy.select(complete)
                self._target.set_aspired(name, {number: complete[number] for number in wanted})

    def _report(self, name: str, problem: str) -> None:
        """Log `problem` of a model if it is not what was logged last."""
        if problem and self._reported.get(name) != problem:
            logger.warning("%s", problem, extra={"model": name})
        self._reported[name] = problem


def _problem(name: str, model: SourceModel, listing: Listing, copying: Mapping[int, str]) -> str:
    """What a user should know of a base path; empty if all is well."""
    if not listing.versions:
        return (
            f"No versions of servable {name} found under base path {model.base_path}. Did you forget to "
            f"name your leaf directory as a number (eg. '/1/')?"
        )
    told = [*listing.duplicates]
    told += [
        f"Version {number} of servable {name} is still being written.{' ' if why else ''}{why}"
        for number, why in sorted(copying.items())
    ]
    missing = sorted((model.policy.specific or frozenset()) - listing.versions.keys())
    told += [f"Version {number} of servable {name} was requested but is not there." for number in missing]
    if model.policy.specific is not None and not model.policy.specific:
        told.append(f"No specific versions requested for servable {name}.")
    return " ".join(told)
