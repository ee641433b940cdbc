"""What to do next with a model's versions: a pure function from what is to one action.

The rules are TensorFlow Serving's: its availability-preserving policy orders loads and unloads so
that a model which is served stays served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.lifecycle.states import State


@dataclass(frozen=True)
class VersionView:
    """What the policy needs to know of a version the manager holds.

    Attributes:
        version: its number.
        state: its state; START means that nothing was done yet.
        aspired: whether it is wanted.
        everywhere: whether it is so in every process that answers for the model.
    """

    version: int
    state: State
    aspired: bool
    everywhere: bool = True


@dataclass(frozen=True)
class Load:
    """Load this version now."""

    version: int


@dataclass(frozen=True)
class Unload:
    """Unload this version now."""

    version: int


def next_action(versions: Sequence[VersionView]) -> Load | Unload | None:
    """The one next step for a model, keeping it available.

    1 served, {1, 2} found, 2 wanted: load 2; then, 2 being available, unload 1.
    1 served, 2 wanted but failed for good: nothing, 1 keeps serving.
    1 served, nothing wanted: unload 1.
    A version that is not available everywhere does not replace another, and goes first.
    """
    wanted = [view for view in versions if view.aspired]
    unwanted_loaded = [view for view in versions if not view.aspired and view.state is State.AVAILABLE]
    replaced = any(view.state is State.AVAILABLE and view.everywhere for view in wanted)
    if unwanted_loaded and (not wanted or replaced or len(unwanted_loaded) > 1):
        return Unload(min((view.everywhere, view.version) for view in unwanted_loaded)[1])
    startable = [view.version for view in wanted if view.state is State.START]
    return Load(max(startable)) if startable else None
