"""One version of a model as the manager holds it, and the handle that pins it for a request."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Protocol, TypeVar

from app.lifecycle.states import State

logger = logging.getLogger(__name__)


class Servable(Protocol):
    """What the manager needs of a loaded version."""

    def close(self) -> None:
        """Give back what the version holds; no call is running any more."""


def close(servable: Servable) -> None:
    """Close it; an error is logged, for what cannot be closed is gone all the same."""
    try:
        servable.close()
    except Exception:
        logger.exception("A version could not be closed properly")


S = TypeVar("S", bound=Servable)


@dataclass
class Version(Generic[S]):
    """The manager's record of a version; only the manager and its jobs change it, under the lock.

    Attributes:
        model: the model's name.
        number: the version's number.
        path: where it is loaded from.
        state: as published on the board.
        aspired: whether it is wanted.
        busy: whether a thread loads or closes it right now.
        attempts: loads begun so far.
        retry_at: when the next attempt is due, on `time.monotonic`.
        handles: how many requests hold it.
        handle: what they hold; None until there is a first one.
        servable: what was loaded.
        last_error: the text of the last failed attempt.
        forgetting: whether it ended, was left out, and has to be forgotten before it may come back.
        came_back: the path to load anew once it is gone, if it was wanted again meanwhile.
        slot: its place in the black box.
    """

    model: str
    number: int
    path: str
    state: State = State.START
    aspired: bool = True
    busy: bool = False
    attempts: int = 0
    retry_at: float = 0.0
    handles: int = 0
    handle: Handle[S] | None = field(default=None, repr=False, compare=False)
    servable: S | None = None
    last_error: str = ""
    forgetting: bool = False
    came_back: str | None = None
    slot: int = -1

    @property
    def id(self) -> str:
        """As it stands in log lines and error texts."""
        return f"{{name: {self.model} version: {self.number}}}"

    @property
    def fields(self) -> dict[str, object]:
        """What it is, for log lines that have fields."""
        return {"model": self.model, "version": self.number}


class Handle(Generic[S]):
    """A pinned version: it stays loaded until `release`, or until the `with` block ends.

    All requests to a version share one, which is made once it is loaded.

    Attributes:
        model: the model's name.
        version: the version's number.
        servable: what was loaded.
        release: lets the version go; to be called exactly once for each `acquire`.
    """

    __slots__ = ("model", "release", "servable", "version")

    def __init__(self, version: Version[S], servable: S, release: Callable[[Version[S]], None]) -> None:
        """Made by `Manager.acquire` only, which counts each use; `release` counts it off."""
        self.release: Callable[[], None] = partial(release, version)
        self.model = version.model
        self.version = version.number
        self.servable = servable

    def __enter__(self) -> Handle[S]:
        """The handle itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release."""
        self.release()
