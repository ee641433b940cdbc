"""Every version that the manager holds, under one lock, and the board that tells of their states."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Generic

from app.errors import ServingError
from app.lifecycle.states import State, StateBoard, VersionStatus
from app.lifecycle.version import S, Version


class VersionTable(Generic[S]):
    """The versions of all models. Everything here is read and called with `changed` held.

    Attributes:
        lock: requests take it by itself, which costs half of what the condition does.
        changed: of the lock; who changes what a decision depends on notifies it.
        models: the versions of each model by number.
        newest: the highest available version of each model that has one.
    """

    def __init__(self, board: StateBoard) -> None:
        """Make an empty table.

        Args:
            board: where states are published.
        """
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.models: dict[str, dict[int, Version[S]]] = {}
        self.newest: dict[str, Version[S]] = {}
        self._board = board

    def __iter__(self) -> Iterator[Version[S]]:
        """Every version, in the order in which they were first wanted; the table may change meanwhile."""
        return iter([version for held in self.models.values() for version in held.values()])

    def publish(self, version: Version[S], state: State, error: ServingError | None = None) -> None:
        """Give `version` its next state and tell the board; `error` is why it ended."""
        version.state = state
        self._board.publish(version.model, VersionStatus(version.number, state, error))

    def update_newest(self, model: str) -> None:
        """Work out anew which version answers requests that name none: one that is available everywhere."""
        available = [v for v in self.models[model].values() if v.state is State.AVAILABLE]
        if available:
            self.newest[model] = max(available, key=lambda each: (self.everywhere(each), each.number))
        else:
            self.newest.pop(model, None)

    def everywhere(self, version: Version[S]) -> bool:
        """Whether other processes that answer for the same models have `version` too."""
        return self._board.everywhere(version.model, version.number)

    def begin(self, model: str, number: int, path: str) -> None:
        """Put a version in its place, at the start of its life."""
        version = self.models[model][number] = Version(model, number, path)
        self.publish(version, State.START)

    def end(self, version: Version[S], error: ServingError | None, again: str | None) -> None:
        """End `version`, and begin it anew from the path `again` if it is wanted again."""
        self.publish(version, State.END, error)
        if again is not None:
            self.begin(version.model, version.number, again)

    def drop(self, version: Version[S]) -> None:
        """Take out a version that ended, and begin it anew if it is wanted again."""
        del self.models[version.model][version.number]
        if version.aspired:
            self.begin(version.model, version.number, version.came_back or version.path)
