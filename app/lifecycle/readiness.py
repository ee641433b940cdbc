"""Whether the server should get requests: what probes, gRPC's health service and the metrics say.

Ready means that every configured model has an available version and that no drain has begun. It is worked
out from the configuration and the board whenever somebody asks; nothing is kept that could be out of date.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.config.model_config import ModelConfig
from app.lifecycle.states import State, StateBoard, VersionStatus

Models = Mapping[str, ModelConfig]
"""The configuration in force: model by name."""


class Condition(enum.Enum):
    """What the server is, as far as new requests go."""

    READY = "ready"
    NOT_READY = "not ready"
    DRAINING = "draining"


@dataclass(frozen=True)
class Missing:
    """A configured model without an available version.

    Attributes:
        model: its name.
        version: the version that tells most: one that is on its way, else the highest; None if there was
            never one.
        state: of that version; None as well.
        error: why, in a sentence; empty while nothing is wrong.
    """

    model: str
    version: int | None
    state: State | None
    error: str


def missing_models(models: Models, board: StateBoard) -> list[Missing]:
    """Every one of `models` that has no available version on `board`, in the order of the configuration."""
    return [
        _missing(model, board.versions(name))
        for name, model in models.items()
        if not board.is_available(name)
    ]


def _missing(model: ModelConfig, versions: list[VersionStatus]) -> Missing:
    if not versions:
        return Missing(model.name, None, None, f"no version was found in {model.base_path}")
    under_way = (status for status in versions if status.state is not State.END)
    status = next(under_way, versions[0])
    error = "" if status.error is None else str(status.error)
    return Missing(model.name, status.version, status.state, error)


Listener = Callable[[Condition], None]


class Readiness:
    """Tells who asks, and tells subscribers of every change. Safe for any number of threads."""

    def __init__(self, models: Callable[[], Models], board: StateBoard) -> None:
        """Begin without subscribers.

        Args:
            models: the configuration in force. Whoever changes it wakes the board.
            board: where states are read.
        """
        self.models = models
        self._board = board
        self._lock = threading.Lock()  # held while subscribers are told, so that all hear the same order
        self._listeners: dict[int, Listener] = {}
        self._subscriptions = 0
        self._told = Condition.NOT_READY
        self._draining = self._stopping = False
        self._thread = threading.Thread(target=self._run, name="ferry-readiness", daemon=True)

    @property
    def draining(self) -> bool:
        """Whether the drain has begun."""
        return self._draining

    def condition(self) -> Condition:
        """What holds at this moment."""
        if self._draining:
            return Condition.DRAINING
        available = all(self._board.is_available(name) for name in self.models())
        return Condition.READY if available else Condition.NOT_READY

    def missing(self) -> list[Missing]:
        """The configured models that have no available version."""
        return missing_models(self.models(), self._board)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` at once what holds, and from then on every change.

        Args:
            listener: does not block; called in any thread, one call at a time.

        Returns:
            A function that ends the subscription. It never blocks, for it may be called in the very
            thread that a listener waits for; a call under way is not waited for.
        """
        with self._lock:
            self._tell()
            self._subscriptions += 1
            number = self._subscriptions
            self._listeners[number] = listener
            listener(self._told)

        def unsubscribe() -> None:
            self._listeners.pop(number, None)

        return unsubscribe

    def begin_drain(self) -> None:
        """From now on the server is not ready; subscribers know when this returns."""
        self._draining = True
        with self._lock:
            self._tell()

    def start(self) -> None:
        """Watch the board for subscribers, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End that thread."""
        self._stopping = True
        self._board.wake()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._board.wait(lambda: self._stopping or self.condition() is not self._told)
            with self._lock:
                self._tell()

    def _tell(self) -> None:
        condition = self.condition()
        if condition is not self._told:
            self._told = condition
            for listener in list(self._listeners.values()):
                listener(condition)
