"""The manager owns every model version: it loads, hands out and unloads them.

Its contract, after TensorFlow Serving's core:

1. `set_aspired` is told the FULL set of wanted versions of a model each time; leaving one out
   means unload it. Nothing unloads by itself.
2. A handle pins its version until it is released: an unload waits for the last handle.
3. Every state change goes to the board.
4. A version that failed for good is not tried again until it is left out and comes back.

Example: {1} wanted: load 1. {1, 2} on disk, {2} wanted: load 2, and when it is available requests
go to it while 1 finishes those it has; then 1 is closed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Generic

from app.errors import not_found
from app.lifecycle.black_box import Activity, BlackBox
from app.lifecycle.jobs import Job, Jobs
from app.lifecycle.labels import Labels
from app.lifecycle.policy import Load, VersionView, next_action
from app.lifecycle.states import State, StateBoard
from app.lifecycle.version import Handle, S, Version, close
from app.lifecycle.version_table import VersionTable

logger = logging.getLogger(__name__)

# By names of their own: to look a member up in its enum takes Python as long as a dozen other names.
_AVAILABLE, _UNLOADING = State.AVAILABLE, State.UNLOADING
_IDLE, _RUNNING = int(Activity.IDLE), int(Activity.RUNNING)


class Manager(Generic[S]):
    """Holds the versions of all models and brings them to what is wanted.

    One thread decides; each load and each unload runs in a thread of its own, so that a slow one holds
    nobody else up.

    Attributes:
        labels: which versions labels mean; kept for who resolves requests, not looked at here.
    """

    def __init__(
        self,
        load: Callable[[str, int, str], S],
        board: StateBoard,
        *,
        max_retries: int = 5,
        retry_seconds: float = 60.0,
        load_threads: int = 1,
        unload_threads: int = 1,
        initial_load_threads: int = 1,
        forgotten: Callable[[str, int, str], None] | None = None,
        black_box: BlackBox | None = None,
    ) -> None:
        """Prepare a manager without versions.

        Args:
            load: (model, version, path) to a servable; raises ServingError.
            board: where states are published.
            max_retries: attempts after the first one that failed.
            retry_seconds: pause between attempts; negative means none.
            load_threads: how many versions may load at a time; at least 1.
            unload_threads: how many versions may unload at a time; at least 1.
            initial_load_threads: takes the place of `load_threads` until `initial_loads_done`.
            forgotten: told (model, version, path) of what is neither wanted nor loaded any more, before
                it may be loaded again; must not raise. A stop forgets nothing.
            black_box: told what versions do; one of its own if None.
        """
        self._box = black_box or BlackBox()
        self._mark = self._box.mark
        self.labels = Labels()
        self._table = VersionTable[S](board)
        self._changed = self._table.changed
        self._jobs = Jobs(
            self._table,
            load,
            self._box,
            max_retries=max_retries,
            retry_seconds=retry_seconds,
            load_threads=load_threads,
            unload_threads=unload_threads,
            initial_load_threads=initial_load_threads,
            forgotten=forgotten,
        )
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="ferry-manager", daemon=True)

    # What the source calls.

    def set_aspired(self, model: str, versions: Mapping[int, str]) -> None:
        """Take the full set of wanted versions of `model`: number to path."""
        with self._changed:
            held = self._table.models.setdefault(model, {})
            for number, path in versions.items():
                version = held.get(number)
                if version is None:
                    self._table.begin(model, number, path)
                else:
                    version.aspired = True
                    if version.state is State.UNLOADING or version.forgetting:
                        version.came_back = path  # loaded anew once it is gone
            for number in held.keys() - versions.keys():
                held[number].aspired = False
                held[number].came_back = None
                held[number].forgetting |= held[number].state is State.END
            self._changed.notify_all()

    # What requests call.

    def acquire(self, model: str, number: int | None = None) -> Handle[S]:
        """Pin a version: `number`, or the highest available one.

        Raises:
            ServingError: NOT_FOUND if it is not available.
        """
        table = self._table
        with table.lock:
            version = table.newest.get(model) if number is None else table.models.get(model, {}).get(number)
            if version is None or version.state is not _AVAILABLE or version.servable is None:
                wanted = f"Latest({model})" if number is None else f"Specific({model}, {number})"
                raise not_found(f"Servable not found for request: {wanted}")
            version.handles += 1
            if version.handles == 1:
                self._mark(version.slot, _RUNNING)
            if version.handle is None:
                version.handle = Handle(version, version.servable, self._release)
            return version.handle

    def _release(self, version: Version[S]) -> None:
        with self._table.lock:
            version.handles -= 1
            if version.handles == 0:
                self._mark(version.slot, _IDLE)
                if version.state is _UNLOADING:
                    self._changed.notify_all()

    # Its own life.

    def start(self) -> None:
        """Begin to act, in a thread of its own."""
        self._thread.start()

    def initial_loads_done(self) -> None:
        """From now on versions load beside requests: fewer at a time, at a lower priority."""
        with self._changed:
            self._jobs.initial_loads_done()

    def look_again(self) -> None:
        """What other processes have has changed."""
        with self._changed:
            for model in self._table.models:
                self._table.update_newest(model)
            self._changed.notify_all()

    def stop(self) -> None:
        """Stop acting and close what is loaded and not in use. A load under way is not waited for."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            idle = [
                version
                for version in self._table
                if version.state is State.AVAILABLE and version.handles == 0
            ]
            for version in idle:
                self._table.publish(version, State.UNLOADING)
        for version in idle:
            assert version.servable is not None
            close(version.servable)
            with self._changed:
                self._table.publish(version, State.END)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopping and (work := self._next_work()) is None:
                    self._changed.wait(self._seconds_to_next_retry())
                if self._stopping:
                    return
            assert work is not None
            threading.Thread(target=work, name="ferry-load", daemon=True).start()

    def _next_work(self) -> Job | None:
        """What to do next outside the lock, if anything; states move inside it."""
        for version in self._table:
            if not version.busy and (work := self._advance(version)):
                return work
        for held in self._table.models.values():
            if work := self._follow_policy(held):
                return work
        return None

    def _advance(self, version: Version[S]) -> Job | None:
        """Go on with a version that something was begun for; LOADING, it waits for its next attempt."""
        if version.state in (State.START, State.LOADING) and not version.aspired:
            self._jobs.cancel(version)
        if version.forgetting or (version.state is State.END and not version.aspired):
            return self._jobs.begin_forget(version)
        if version.state is State.UNLOADING and version.handles == 0:
            return self._jobs.begin_unload(version)
        if version.state is State.LOADING and version.retry_at <= time.monotonic() and self._jobs.may_load():
            return self._jobs.begin_load(version)
        return None

    def _follow_policy(self, held: Mapping[int, Version[S]]) -> Job | None:
        """Begin the next step for a model."""
        action = next_action(
            [VersionView(v.number, v.state, v.aspired, self._table.everywhere(v)) for v in held.values()]
        )
        if action is None or (isinstance(action, Load) and not self._jobs.may_load()):
            return None
        version = held[action.version]
        if isinstance(action, Load):
            self._table.publish(version, State.LOADING)
            return self._jobs.begin_load(version)
        logger.info("Quiescing servable version %s", version.id, extra=version.fields)
        self._table.publish(version, State.UNLOADING)
        self._table.update_newest(version.model)
        return self._advance(version)

    def _seconds_to_next_retry(self) -> float | None:
        waiting = [
            version.retry_at for version in self._table if version.state is State.LOADING and not version.busy
        ]
        if not waiting or not self._jobs.may_load():
            return None
        return min(max(0.0, min(waiting) - time.monotonic()), threading.TIMEOUT_MAX)
