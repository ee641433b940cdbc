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
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from app.errors import Code, ServingError, not_found
from app.lifecycle.labels import Labels
from app.lifecycle.policy import Load, VersionView, next_action
from app.lifecycle.states import State, StateBoard, VersionStatus

logger = logging.getLogger(__name__)


class Servable(Protocol):
    """What the manager needs of a loaded version."""

    def close(self) -> None:
        """Give back what the version holds; no call is running any more."""


S = TypeVar("S", bound=Servable)


@dataclass
class _Version(Generic[S]):
    model: str
    number: int
    path: str
    state: State = State.START
    aspired: bool = True
    attempts: int = 0
    retry_at: float = 0.0
    handles: int = 0
    servable: S | None = None
    last_error: str = ""
    came_back: str | None = None

    @property
    def id(self) -> str:
        return f"{{name: {self.model} version: {self.number}}}"


class Handle(Generic[S]):
    """A pinned version: it stays loaded until `release`, or until the `with` block ends.

    Attributes:
        model: the model's name.
        version: the version's number.
        servable: what was loaded.
    """

    __slots__ = ("_manager", "_version", "model", "servable", "version")

    def __init__(self, manager: Manager[S], version: _Version[S], servable: S) -> None:
        """Made by `Manager.acquire` only, which counts it."""
        self._manager = manager
        self._version = version
        self.model = version.model
        self.version = version.number
        self.servable = servable

    def release(self) -> None:
        """Let the version go; exactly once."""
        self._manager._release(self._version)

    def __enter__(self) -> Handle[S]:
        """The handle itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release."""
        self.release()


class Manager(Generic[S]):
    """Holds the versions of all models and brings them to what is wanted, one action at a time.

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
        forgotten: Callable[[str, int, str], None] | None = None,
    ) -> None:
        """Prepare a manager without versions.

        Args:
            load: (model, version, path) to a servable; raises ServingError.
            board: where states are published.
            max_retries: attempts after the first one that failed.
            retry_seconds: pause between attempts; negative means none.
            forgotten: told (model, version, path) of what is neither wanted nor loaded any more; must
                not raise. A stop forgets nothing.
        """
        self.labels = Labels()
        self._load_servable = load
        self._forgotten = forgotten
        self._board = board
        self._max_retries = max(0, max_retries)
        self._retry_seconds = max(0.0, retry_seconds)
        self._changed = threading.Condition()
        self._models: dict[str, dict[int, _Version[S]]] = {}
        self._newest: dict[str, _Version[S]] = {}
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
                    held[number] = _Version(model, number, path)
                    self._publish(held[number], State.START)
                else:
                    version.aspired = True
                    if version.state is State.UNLOADING:
                        version.came_back = path  # loaded anew once it is gone
            for number, version in held.items():
                if number not in versions:
                    version.aspired = False
                    version.came_back = None
            self._changed.notify_all()

    # What requests call.

    def acquire(self, model: str, number: int | None = None) -> Handle[S]:
        """Pin a version: `number`, or the highest available one.

        Raises:
            ServingError: NOT_FOUND if it is not available.
        """
        with self._changed:
            versions = self._models.get(model, {})
            version = self._newest.get(model) if number is None else versions.get(number)
            if version is None or version.state is not State.AVAILABLE or version.servable is None:
                wanted = f"Latest({model})" if number is None else f"Specific({model}, {number})"
                raise not_found(f"Servable not found for request: {wanted}")
            version.handles += 1
            return Handle(self, version, version.servable)

    def _release(self, version: _Version[S]) -> None:
        with self._changed:
            version.handles -= 1
            if version.handles == 0 and version.state is State.UNLOADING:
                self._changed.notify_all()

    # Its own life.

    def start(self) -> None:
        """Begin to act, in a thread of its own."""
        self._thread.start()

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
            self._close(version)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopping and (work := self._next_work()) is None:
                    self._changed.wait(self._seconds_to_next_retry())
                if self._stopping:
                    return
            assert work is not None
            work()

    def _next_work(self) -> Callable[[], None] | None:
        """What to do next outside the lock, if anything; states move inside it.

        One thread acts, so a version found LOADING here waits for its next attempt.
        """
        now = time.monotonic()
        for version in [version for held in self._models.values() for version in held.values()]:
            if version.state is State.END and not version.aspired:
                del self._models[version.model][version.number]  # the board remembers; it may come back
                if self._forgotten is not None:
                    return partial(self._forgotten, version.model, version.number, version.path)
            elif version.state in (State.START, State.LOADING) and not version.aspired:
                self._cancel(version)
            elif version.state is State.UNLOADING and version.handles == 0:
                return partial(self._close, version)
            elif version.state is State.LOADING and version.retry_at <= now:
                return partial(self._load, version)
        for held in self._models.values():
            action = next_action([VersionView(v.number, v.state, v.aspired) for v in held.values()])
            if isinstance(action, Load):
                version = held[action.version]
                self._publish(version, State.LOADING)
                return partial(self._load, version)
            if action is not None:
                version = held[action.version]
                logger.info("Quiescing servable version %s", version.id)
                self._publish(version, State.UNLOADING)
                self._update_newest(version.model)
                return self._next_work()
        return None

    def _seconds_to_next_retry(self) -> float | None:
        waiting = [
            version.retry_at
            for held in self._models.values()
            for version in held.values()
            if version.state is State.LOADING
        ]
        if not waiting:
            return None
        return min(max(0.0, min(waiting) - time.monotonic()), threading.TIMEOUT_MAX)

    def _load(self, version: _Version[S]) -> None:
        version.attempts += 1
        logger.info("Loading servable version %s", version.id)
        try:
            servable = self._load_servable(version.model, version.number, version.path)
        except Exception as error:  # whatever a model does, the server goes on
            self._load_failed(version, _as_serving_error(error))
            return
        with self._changed:
            version.servable = servable
            self._publish(version, State.AVAILABLE)
            self._update_newest(version.model)
        logger.info("Successfully loaded servable version %s", version.id)

    def _load_failed(self, version: _Version[S], error: ServingError) -> None:
        final = version.attempts > self._max_retries
        if version.attempts == 1 or str(error) != version.last_error:
            then = (
                ""
                if final
                else (f" It is tried again up to {self._max_retries} times, every {self._retry_seconds:g} s.")
            )
            logger.error("Loading servable: %s failed: %s%s", version.id, error, then)
        version.last_error = str(error)
        with self._changed:
            version.retry_at = time.monotonic() + self._retry_seconds
            if final:
                self._publish(version, State.END, error)
        if final and self._max_retries:
            logger.error(
                "Servable %s cannot be loaded: given up after %d attempts.", version.id, version.attempts
            )

    def _cancel(self, version: _Version[S]) -> None:
        """End a version that is no longer wanted before it was loaded."""
        tried = version.state is State.LOADING
        error = ServingError(Code.CANCELLED, "Loading of servable cancelled") if tried else None
        self._publish(version, State.END, error)
        if tried:
            logger.info("Retrying of Loading servable: %s was cancelled.", version.id)

    def _close(self, version: _Version[S]) -> None:
        assert version.servable is not None
        version.servable.close()
        logger.info("Done unloading servable version %s", version.id)
        with self._changed:
            version.servable = None
            self._publish(version, State.END)
            if version.came_back is not None:
                again = _Version[S](version.model, version.number, version.came_back)
                self._models[version.model][version.number] = again
                self._publish(again, State.START)

    def _publish(self, version: _Version[S], state: State, error: ServingError | None = None) -> None:
        version.state = state
        self._board.publish(version.model, VersionStatus(version.number, state, error))

    def _update_newest(self, model: str) -> None:
        available = [v for v in self._models[model].values() if v.state is State.AVAILABLE]
        if available:
            self._newest[model] = max(available, key=lambda version: version.number)
        else:
            self._newest.pop(model, None)


def _as_serving_error(error: Exception) -> ServingError:
    if isinstance(error, ServingError):
        return error
    logger.error("A load ended in an unexpected error", exc_info=error)
    return ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
