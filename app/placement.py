"""Where a call runs: on the event loop, which costs nothing, or in a thread, which stalls nobody.

Its recent running time decides, for calls of a kind: the same method, the same model as the request names
it, about the same size. What is not known runs in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

# The loop serves nobody else during a call. A call of 40 us takes 200 when the caches are cold.
INLINE_SECONDS = 500e-6
# One call of this length on the loop is one too many.
STALL_SECONDS = 1e-3
# A call that needs little CPU time may all the same take long: because other processes got the CPU, which
# is no matter of the call, or because it waits, which is. So long a wait is held against it at once,
_WAITING_SECONDS = 10e-3
# shorter ones if there are so many of them.
_MOST_WAITS = 3.0
_WAITS_FADE = 0.9
_WEIGHT = 0.1
_FIRST_TRIAL = 2
_LONGEST_TRIAL = 4096
_FORGIVEN_AFTER = 200
_KINDS_KEPT = 4096
# The tag that a request begins with, and where to stop: what is longer takes two bytes to say how long.
_MODEL_SPEC = 0x0A
_SPEC_ENDS = 2 + 127
WATCHED = 100
"""Calls whose CPU time is measured after one that took long.

To ask for a thread's CPU time costs a tenth of a small request. So a first long call gets the benefit of the
doubt, that others had the CPU."""


def kind_of(path: str, message: bytes) -> Hashable:
    """What calls have to have in common for one to tell of the next.

    Args:
        path: of the method.
        message: the request, as received.

    Returns:
        The path, the model and the size. All requests of TensorFlow Serving begin with the model spec
        (or a task that does), which is taken as the bytes that it is.
    """
    size = len(message)
    end = 2 + message[1] if size > 1 and message[0] == _MODEL_SPEC else 0
    return path, message[2 : end if end < _SPEC_ENDS else _SPEC_ENDS], size.bit_length()


@dataclass(slots=True)
class Record:
    """What is known of a kind.

    Attributes:
        inline: whether it runs on the loop.
        mean: of its recent cost there, in seconds.
        waits: how many of its recent calls took longer than their CPU time says, fading.
        trial: cheap calls in a row, in threads, that it takes to run on the loop.
        streak: how many there were, or on the loop: calls since it came.
    """

    inline: bool = False
    mean: float = 0.0
    waits: float = 0.0
    trial: int = _FIRST_TRIAL
    streak: int = 0

    def ran_inline(self, seconds: float, cpu_seconds: float) -> None:
        """Learn from a call on the loop, as `Placement.ran`."""
        if not self.inline:  # it was on the loop already when another call showed that it should not be
            return
        cost = seconds if seconds > _WAITING_SECONDS else cpu_seconds
        self.streak += 1
        self.mean += (cost - self.mean) * _WEIGHT
        self.waits = self.waits * _WAITS_FADE + (seconds > STALL_SECONDS)
        if self.streak % _FORGIVEN_AFTER == 0:
            self.trial = max(_FIRST_TRIAL, self.trial // 2)
        if cost > STALL_SECONDS or self.mean > INLINE_SECONDS or self.waits > _MOST_WAITS:
            self.inline = False
            self.streak = 0
            # A kind that is slow now and then comes back later and later.
            self.trial = min(self.trial * 2, _LONGEST_TRIAL)


class Placement:
    """Decides by what `ran` was told. Not for several threads.

    Attributes:
        find: what is known of a kind; None if that is nothing.
        watched: how many of the next calls on the loop should have their CPU time measured.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self._records: dict[Hashable, Record] = {}
        self.find: Callable[[Hashable], Record | None] = self._records.get
        self.watched = 0

    def inline(self, kind: Hashable) -> bool:
        """Whether the next call of this kind may run on the loop."""
        record = self._records.get(kind)
        return record is not None and record.inline

    def ran(self, kind: Hashable, seconds: float, cpu_seconds: float, *, inline: bool) -> None:
        """Learn from a call.

        Args:
            kind: of the call.
            seconds: that it took.
            cpu_seconds: that its thread computed in this time.
            inline: whether it ran on the loop.
        """
        record = self._records.get(kind)
        if record is None:
            if len(self._records) >= _KINDS_KEPT:
                del self._records[next(iter(self._records))]
            record = self._records[kind] = Record()
        if inline:
            record.ran_inline(seconds, cpu_seconds)
        else:
            _ran_in_thread(record, cpu_seconds, waited=seconds > _WAITING_SECONDS)


def _ran_in_thread(record: Record, cost: float, *, waited: bool) -> None:
    if record.inline:
        record.waits = 0.0  # those on the loop had to wait for this one, which began before they did
        return
    # Threads wait for each other, too: now and then a long wait says nothing.
    record.waits = record.waits * _WAITS_FADE + waited
    record.streak = record.streak + 1 if cost < INLINE_SECONDS else 0
    record.mean = cost
    if record.streak >= record.trial and record.waits < 1:
        record.inline = True
        record.streak = 0
        record.waits = 0.0
