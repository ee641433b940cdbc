"""The one board on which every state change of every version is written.

Status requests read it; start-up waits on it. As in TensorFlow Serving nothing is forgotten: a
version that was unloaded, or that failed, stays listed as END.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from app.errors import ServingError


class State(enum.IntEnum):
    """The states of a version; the values are those of `ModelVersionStatus.State`."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionStatus:
    """What the board says of one version.

    Attributes:
        version: the version's number.
        state: where it is in its life.
        error: why it ended, if it ended for a failure.
    """

    version: int
    state: State
    error: ServingError | None = None


class StateBoard:
    """Every version's last state, by model. Safe for any number of threads."""

    def __init__(self) -> None:
        """An empty board."""
        # Re-entrant: conditions given to wait() read the board.
        self._changed = threading.Condition(threading.RLock())
        self._models: dict[str, dict[int, VersionStatus]] = {}

    def publish(self, model: str, status: VersionStatus) -> None:
        """Write a version's new state and wake who waits."""
        with self._changed:
            self._models.setdefault(model, {})[status.version] = status
            self._changed.notify_all()

    def versions(self, model: str) -> list[VersionStatus]:
        """The versions of `model`, highest first; empty if none was ever seen."""
        with self._changed:
            return sorted(self._models.get(model, {}).values(), key=lambda status: -status.version)

    def is_available(self, model: str) -> bool:
        """Whether some version of `model` is available. Takes a microsecond: probes ask often."""
        with self._changed:
            versions = self._models.get(model, {})
            return any(status.state is State.AVAILABLE for status in versions.values())

    def everywhere(self, model: str, version: int) -> bool:  # noqa: ARG002 - there is one process here
        """Whether a version that is available in this process is so wherever requests may go."""
        return True

    def wait(self, condition: Callable[[], bool], deadline: float | None = None) -> bool:
        """Block until `condition` holds; it is evaluated at every change.

        Args:
            condition: reads the board.
            deadline: on `time.monotonic`; None waits without end.

        Returns:
            Whether it holds; False only once the deadline has passed.
        """
        with self._changed:
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            return self._changed.wait_for(condition, timeout)

    def wake(self) -> None:
        """Make waiters look again, for conditions that depend on more than the board."""
        with self._changed:
            self._changed.notify_all()
