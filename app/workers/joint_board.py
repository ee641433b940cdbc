"""The board of a worker that is one of several: it shows what holds for all of them.

What this worker's manager publishes goes to the others; what is read is the joint state. A worker that has
not joined yet, because it still loads, goes by itself and does not count for the others: nobody can ask it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from app.lifecycle.states import State, StateBoard, VersionStatus
from app.workers.crew import Crew
from app.workers.joint_states import joint_statuses

logger = logging.getLogger(__name__)

# A worker that comes back may have found newer versions than the others have loaded so far. It waits for
# them, but not without end: one that they cannot load must not keep it out.
_JOIN_SECONDS = 120.0
_REPLIES_KEPT = 8


@dataclass(frozen=True)
class Told:
    """What a worker tells the others.

    Attributes:
        joined: whether it can be asked for what it has.
        versions: their states, by model and version.
        replies: to proposals: what happened, by what was asked.
    """

    joined: bool = False
    versions: Mapping[str, Mapping[int, VersionStatus]] = field(default_factory=dict)
    replies: Mapping[str, object] = field(default_factory=dict)


class JointBoard(StateBoard):
    """A board on which the others' states count as well."""

    def __init__(self, crew: Crew) -> None:
        """An empty board, which looks at the others from `start` on."""
        super().__init__()
        self._crew = crew
        self._joined = self._stopping = False
        self._own: dict[str, dict[int, VersionStatus]] = {}
        self._others: Mapping[int, Told] = {}
        self._replies: dict[str, object] = {}
        self._listeners: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._run, name="ferry-workers", daemon=True)

    def publish(self, model: str, status: VersionStatus) -> None:
        """Write a version's new state in this worker."""
        with self._changed:
            self._own.setdefault(model, {})[status.version] = status
            self._tell()

    def everywhere(self, model: str, version: int) -> bool:
        """Whether every worker has this version available."""
        with self._changed:
            status = self._models.get(model, {}).get(version)
            return status is not None and status.state is State.AVAILABLE

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever another worker has told something; before `start`."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Look at the others, in a thread."""
        self._thread.start()

    def join(self, seconds: float = _JOIN_SECONDS) -> None:
        """Count for the others from now on; waits until this worker has what they have."""
        if not self.wait(lambda: not self._missing(), time.monotonic() + seconds):
            logger.warning("This worker joins the others without %s.", ", ".join(sorted(self._missing())))
        with self._changed:
            self._joined = True
            self._tell()

    def leave(self) -> None:
        """Count for the others no more."""
        with self._changed:
            self._joined = False
            self._tell()

    def reply(self, question: str, answer: object) -> None:
        """Tell the others what came of their `question`."""
        with self._changed:
            self._replies = {**dict(list(self._replies.items())[-_REPLIES_KEPT:]), question: answer}
            self._tell()

    def replies(self, question: str) -> Mapping[int, object]:
        """Those of the others that have joined, None for one that has not replied, by worker."""
        with self._changed:
            return {index: told.replies.get(question) for index, told in self._others.items() if told.joined}

    def stop(self) -> None:
        """End the thread."""
        self._stopping = True
        self._crew.ring_own()
        self._thread.join()

    def _missing(self) -> set[str]:
        others = joint_statuses([told.versions for told in self._others.values() if told.joined])
        own = joint_statuses([self._own])
        return {
            f"version {number} of {model}"
            for model, versions in others.items()
            for number, status in versions.items()
            if status.state is State.AVAILABLE and own.get(model, {}).get(number) != status
        }

    def _tell(self) -> None:
        """Under the lock."""
        versions = {model: dict(held) for model, held in self._own.items()}
        if not self._crew.tell(Told(self._joined, versions, dict(self._replies))):
            logger.error("The states of this worker's versions are too many to tell the other workers.")
        self._look()

    def _look(self) -> None:
        """Under the lock."""
        views = [self._own]
        if self._joined:
            views += [told.versions for told in self._others.values() if told.joined]  # type: ignore[misc]
        # What stays the same stays the same object: errors are compared as such.
        before, self._models = self._models, joint_statuses(views)
        for model, versions in self._models.items():
            for number, status in versions.items():
                old = before.get(model, {}).get(number)
                if old is not None and old.state is status.state and str(old.error) == str(status.error):
                    versions[number] = old
        self._changed.notify_all()

    def _run(self) -> None:
        while not self._stopping:
            with self._changed:
                self._others = self._crew.told()
                self._look()
            for listener in self._listeners:
                listener()
            self._crew.wait()
