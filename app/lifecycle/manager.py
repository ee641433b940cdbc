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

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Generic

from app.errors import Code, ServingError, not_found, without_traceback
from app.lifecycle.labels import Labels
from app.lifecycle.policy import Load, VersionView, next_action
from app.lifecycle.states import State, StateBoard, VersionStatus
from app.lifecycle.version import Handle, S, Version, close

logger = logging.getLogger(__name__)


# Loads after the start yield to requests wherever both want the processor.
_LOAD_NICENESS = 10
_CANCELLED = "Loading of servable cancelled"


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
        """
        self.labels = Labels()
        self._load_servable = load
        self._board = board
        self._forgotten = forgotten
        self._max_retries = max(0, max_retries)
        self._retry_seconds = max(0.0, retry_seconds)
        # Requests take the lock by itself, which costs half of what the condition does.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._models: dict[str, dict[int, Version[S]]] = {}
        self._newest: dict[str, Version[S]] = {}
        self._load_threads = max(1, load_threads)
        self._unload_threads = max(1, unload_threads)
        self._loads_at_a_time = max(self._load_threads, initial_load_threads)
        self._loads = self._unloads = 0  # under way
        self._beside_requests = False
        self._has_loaded = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="ferry-manager", daemon=True)

    # What the source calls.

    def set_aspired(self, model: str, versions: Mapping[int, str]) -> None:
        """Take the full set of wanted versions of `model`: number to path."""
        with self._changed:
            held = self._models.setdefault(model, {})
            for number, path in versions.items():
                version = held.get(number)
                if version is None:
                    held[number] = Version(model, number, path)
                    self._publish(held[number], State.START)
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
        with self._lock:
            version = self._newest.get(model) if number is None else self._models.get(model, {}).get(number)
            if version is None or version.state is not State.AVAILABLE or version.servable is None:
                wanted = f"Latest({model})" if number is None else f"Specific({model}, {number})"
                raise not_found(f"Servable not found for request: {wanted}")
            version.handles += 1
            return Handle(version, version.servable, self._release)

    def _release(self, version: Version[S]) -> None:
        with self._lock:
            version.handles -= 1
            if version.handles == 0 and version.state is State.UNLOADING:
                self._changed.notify_all()

    # Its own life.

    def start(self) -> None:
        """Begin to act, in a thread of its own."""
        self._thread.start()

    def initial_loads_done(self) -> None:
        """From now on versions load beside requests: fewer at a time, at a lower priority."""
        with self._changed:
            self._loads_at_a_time = self._load_threads
            self._beside_requests = True

    def stop(self) -> None:
        """Stop acting and close what is loaded and not in use. A load under way is not waited for."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            idle = [
                version
                for versions in self._models.values()
                for version in versions.values()
                if version.state is State.AVAILABLE and version.handles == 0
            ]
            for version in idle:
                self._publish(version, State.UNLOADING)
        for version in idle:
            assert version.servable is not None
            close(version.servable)
            self._publish(version, State.END)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopping and (work := self._next_work()) is None:
                    self._changed.wait(self._seconds_to_next_retry())
                if self._stopping:
                    return
            assert work is not None
            threading.Thread(target=work, name="ferry-load", daemon=True).start()

    def _next_work(self) -> Callable[[], None] | None:
        """What to do next outside the lock, if anything; states move inside it."""
        for version in [version for held in self._models.values() for version in held.values()]:
            if not version.busy and (work := self._advance(version)):
                return work
        for held in self._models.values():
            if work := self._follow_policy(held):
                return work
        return None

    def _advance(self, version: Version[S]) -> Callable[[], None] | None:
        """Go on with a version that something was begun for; LOADING, it waits for its next attempt."""
        if version.state in (State.START, State.LOADING) and not version.aspired:
            self._cancel(version)
        if version.forgetting or (version.state is State.END and not version.aspired):
            version.busy = version.forgetting = True
            return partial(self._forget, version)
        if version.state is State.UNLOADING and version.handles == 0:
            if self._unloads < self._unload_threads:
                version.busy = True
                self._unloads += 1
                return partial(self._unload, version)
        elif version.state is State.LOADING and version.retry_at <= time.monotonic() and self._may_load():
            return self._begin_load(version)
        return None

    def _follow_policy(self, held: Mapping[int, Version[S]]) -> Callable[[], None] | None:
        """Begin the next step for a model."""
        action = next_action([VersionView(v.number, v.state, v.aspired) for v in held.values()])
        if action is None or (isinstance(action, Load) and not self._may_load()):
            return None
        version = held[action.version]
        if isinstance(action, Load):
            self._publish(version, State.LOADING)
            return self._begin_load(version)
        logger.info("Quiescing servable version %s", version.id)
        self._publish(version, State.UNLOADING)
        self._update_newest(version.model)
        return self._advance(version)

    def _may_load(self) -> bool:
        return self._loads < self._loads_at_a_time

    def _begin_load(self, version: Version[S]) -> Callable[[], None]:
        version.busy = True
        version.attempts += 1
        self._loads += 1
        # TensorFlow's own threads are made by the first load, and would inherit its priority.
        niceness = _LOAD_NICENESS if self._beside_requests and self._has_loaded else 0
        return partial(self._load, version, niceness)

    def _seconds_to_next_retry(self) -> float | None:
        waiting = [
            version.retry_at
            for held in self._models.values()
            for version in held.values()
            if version.state is State.LOADING and not version.busy
        ]
        if not waiting or not self._may_load():
            return None
        return min(max(0.0, min(waiting) - time.monotonic()), threading.TIMEOUT_MAX)

    def _load(self, version: Version[S], niceness: int) -> None:
        if niceness:
            with contextlib.suppress(OSError):  # a sandbox may forbid it
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
        logger.info("Loading servable version %s", version.id)
        try:
            servable = self._load_servable(version.model, version.number, version.path)
        except Exception as error:  # whatever a model does, the server goes on
            if not isinstance(error, ServingError):
                logger.error("A load ended in an unexpected error", exc_info=error)
            # Not the one that was raised: the board keeps it, and its traceback all that the load had made.
            self._load_failed(version, without_traceback(error))
        else:
            self._loaded(version, servable)
        finally:
            with self._changed:
                version.busy = False
                self._loads -= 1
                self._changed.notify_all()

    def _loaded(self, version: Version[S], servable: S) -> None:
        with self._changed:
            self._has_loaded = True
            if version.aspired:
                version.servable = servable
                self._publish(version, State.AVAILABLE)
                self._update_newest(version.model)
        if version.servable is servable:
            logger.info("Successfully loaded servable version %s", version.id)
            return
        logger.info("Unloading just-loaded servable version %s", version.id)
        close(servable)
        with self._changed:
            again = version.path if version.aspired else None
            self._end(version, ServingError(Code.CANCELLED, _CANCELLED), again)

    def _load_failed(self, version: Version[S], error: ServingError) -> None:
        final = version.attempts > self._max_retries
        if version.attempts == 1 or str(error) != version.last_error:
            then = (
                ""
                if final
                else (f" It is tried again up to {self._max_retries} times, every {self._retry_seconds:g} s.")
            )
            logger.error("Loading servable: %s failed: %s%s", version.id, error, then)
        version.last_error = str(error)
        if final and self._max_retries:  # said first: the end of the only version ends a start
            logger.error(
                "Servable %s cannot be loaded: given up after %d attempts.", version.id, version.attempts
            )
        with self._changed:
            version.retry_at = time.monotonic() + self._retry_seconds
            if final:
                self._publish(version, State.END, error)

    def _cancel(self, version: Version[S]) -> None:
        """End a version that is no longer wanted before it was loaded."""
        tried = version.state is State.LOADING
        error = ServingError(Code.CANCELLED, _CANCELLED) if tried else None
        self._publish(version, State.END, error)
        if tried:
            logger.info("Retrying of Loading servable: %s was cancelled.", version.id)

    def _forget(self, version: Version[S]) -> None:
        """Drop a version that ended and was left out: the board remembers it, and it may come back."""
        if self._forgotten is not None:
            self._forgotten(version.model, version.number, version.path)
        with self._changed:
            del self._models[version.model][version.number]
            if version.aspired:
                self._begin_anew(version, version.came_back or version.path)
            self._changed.notify_all()

    def _unload(self, version: Version[S]) -> None:
        assert version.servable is not None
        close(version.servable)
        logger.info("Done unloading servable version %s", version.id)
        with self._changed:
            version.servable = None
            version.busy = False
            self._unloads -= 1
            self._end(version, None, version.came_back)
            self._changed.notify_all()

    def _end(self, version: Version[S], error: ServingError | None, again: str | None) -> None:
        """End `version`, and begin it anew from the path `again` if it is wanted again."""
        self._publish(version, State.END, error)
        if again is not None:
            self._begin_anew(version, again)

    def _begin_anew(self, version: Version[S], path: str) -> None:
        anew = Version[S](version.model, version.number, path)
        self._models[version.model][version.number] = anew
        self._publish(anew, State.START)

    def _publish(self, version: Version[S], state: State, error: ServingError | None = None) -> None:
        version.state = state
        self._board.publish(version.model, VersionStatus(version.number, state, error))

    def _update_newest(self, model: str) -> None:
        available = [v for v in self._models[model].values() if v.state is State.AVAILABLE]
        if available:
            self._newest[model] = max(available, key=lambda version: version.number)
        else:
            self._newest.pop(model, None)
