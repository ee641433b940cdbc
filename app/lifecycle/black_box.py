"""What each version is doing, in memory that outlives the worker: so that its death can be explained.

The parent makes the box before it forks. The worker writes: which versions load, which have requests in
them. When the worker dies the parent reads, says what was going on, and remembers versions that were
being loaded: one whose loads have killed the worker twice is not loaded again. What the parent
remembers, the next worker inherits with the fork.
"""

from __future__ import annotations

import enum
import json
import mmap
import threading
from collections.abc import Callable
from dataclasses import dataclass

MOST_CRASHES = 2
"""So often may the load of a version kill the worker."""

_SLOTS = 1024
_SLOT_BYTES = 1024


class Activity(enum.IntEnum):
    """What a version does."""

    NOTHING = 0
    LOADING = 1
    IDLE = 2
    RUNNING = 3


@dataclass(frozen=True)
class Suspect:
    """A version that something was done with.

    Attributes:
        model: its name.
        number: of the version.
        path: where it is loaded from.
    """

    model: str
    number: int
    path: str

    def __str__(self) -> str:
        """As it stands in log lines."""
        return f"{{name: {self.model} version: {self.number}}}"


@dataclass(frozen=True)
class Findings:
    """What was going on when a worker died.

    Attributes:
        loading: versions that were being loaded.
        running: versions with requests in them.
        convicted: the one that will not be loaded again from now on, if there is one.
    """

    loading: tuple[Suspect, ...]
    running: tuple[Suspect, ...]
    convicted: Suspect | None = None

    def __str__(self) -> str:
        """In a sentence or two; empty if nothing was going on."""
        told = []
        for doing, suspects in (("loaded", self.loading), ("ran", self.running)):
            if suspects:
                told.append(f"It {doing} {', '.join(map(str, suspects))}.")
        if self.convicted is not None:
            told.append(f"{self.convicted} will not be loaded again.")
        return " ".join(told)


class BlackBox:
    """The box. `mark` is for every request and takes no lock: one byte is written.

    Attributes:
        mark: writes which `Activity` the version in a slot has now; NOTHING gives the slot back.
        one_at_a_time: whether versions should load one after the other, since some died together.
        convicted: versions that are not to be loaded, by path.
    """

    def __init__(self, beside: BlackBox | None = None) -> None:
        """An empty box; what `beside`, another worker's, is told of loads that killed counts for both."""
        # One mark more than slots: number -1, for versions that found no slot.
        self._marks = mmap.mmap(-1, _SLOTS + 1)
        self.mark: Callable[[int, int], None] = self._marks.__setitem__  # without a step between
        self._texts = mmap.mmap(-1, _SLOTS * _SLOT_BYTES)
        self._lock = threading.Lock()
        self._crashes: dict[str, int] = {} if beside is None else beside._crashes
        self.one_at_a_time = False
        self.convicted: dict[str, Suspect] = {} if beside is None else beside.convicted

    def begin(self, suspect: Suspect) -> int:
        """A load begins; the slot to `mark`, -1 if there is none left."""
        text = json.dumps([suspect.model, suspect.number, suspect.path]).encode()
        with self._lock:
            slot = self._marks.find(b"\0", 0, _SLOTS)
            if slot < 0 or len(text) > _SLOT_BYTES - 1:
                return -1
            self._texts[slot * _SLOT_BYTES : (slot + 1) * _SLOT_BYTES] = text.ljust(_SLOT_BYTES, b"\0")
            self._marks[slot] = Activity.LOADING
            return slot

    def find(self) -> Findings:
        """Read the box of a worker that died, judge by it, and empty it for the next one."""
        doing = {activity: self._with(activity) for activity in (Activity.LOADING, Activity.RUNNING)}
        loading, running = doing[Activity.LOADING], doing[Activity.RUNNING]
        self._marks[:] = bytes(_SLOTS + 1)
        if len(loading) != 1:
            # Together, none can be told from the others; alone, the next time.
            self.one_at_a_time |= len(loading) > 1
            return Findings(loading, running)
        suspect = loading[0]
        self._crashes[suspect.path] = self._crashes.get(suspect.path, 0) + 1
        if self._crashes[suspect.path] < MOST_CRASHES:
            return Findings(loading, running)
        self.convicted[suspect.path] = suspect
        return Findings(loading, running, suspect)

    def _with(self, activity: Activity) -> tuple[Suspect, ...]:
        found = []
        for slot in range(_SLOTS):
            if self._marks[slot] == activity:
                text = self._texts[slot * _SLOT_BYTES : (slot + 1) * _SLOT_BYTES].rstrip(b"\0")
                found.append(Suspect(*json.loads(text)))
        return tuple(found)


def crash_text(suspect: Suspect) -> str:
    """What users are told of a version that is not loaded any more."""
    return (
        f"The server died {MOST_CRASHES} times while it loaded this version from {suspect.path}: it is "
        "not loaded again. Publish one that loads under another number, or start the server anew."
    )
