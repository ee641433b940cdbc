"""Where a call runs: on the event loop, which costs nothing, or in a thread, which stalls nobody.

Its recent running time decides, for calls of a kind: the same method, the same model as the request names
it, about the same size. What is not known runs in a thread.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

# A hand-over to a thread costs 30 to 60 us, and the loop serves nobody else during a call.
INLINE_SECONDS = 200e-6
# One call of this length on the loop is one too many.
STALL_SECONDS = 1e-3
# A call that waits so long for others (TensorFlow's threads, a lock) is no matter of its own CPU time.
_WAITING_SECONDS = 10e-3
_FIRST_TRIAL = 2
_LONGEST_TRIAL = 4096
_FORGIVEN_AFTER = 1000
_KINDS_KEPT = 4096
_WEIGHT = 0.1


def kind_of(path: str, message: bytes) -> Hashable:
    """What calls have to have in common for one to tell of the next.

    Args:
        path: of the method.
        message: the request, as received.

    Returns:
        The path, the model and the size. All requests of TensorFlow Serving begin with the model spec
        (or a task that does), which is taken as the bytes that it is.
    """
    spec = message[2 : 2 + message[1]] if message[:1] == b"\x0a" and len(message) > 1 else b""
    return path, bytes(spec[:127]), len(message).bit_length()


@dataclass(slots=True)
class _Record:
    """What is known of a kind: where it runs, its mean, and how far from (or into) a change it is."""

    inline: bool = False
    mean: float = 0.0
    trial: int = _FIRST_TRIAL  # fast calls in a row, in threads, that it takes
    fast: int = 0
    calls: int = 0


class Placement:
    """Decides by what `ran` was told. Not for several threads."""

    def __init__(self) -> None:
        """Know nothing."""
        self._records: dict[Hashable, _Record] = {}

    def inline(self, kind: Hashable) -> bool:
        """Whether the next call of this kind may run on the loop."""
        record = self._records.get(kind)
        return record is not None and record.inline

    def ran(self, kind: Hashable, seconds: float, cpu_seconds: float | None = None) -> None:
        """Learn from a call.

        Args:
            kind: of the call.
            seconds: that it took.
            cpu_seconds: of its thread's time; None if it ran on the loop. In a thread the rest went by
                in waiting for the interpreter, which on the loop it would not have to do.
        """
        record = self._records.get(kind)
        if record is None:
            if len(self._records) >= _KINDS_KEPT:
                del self._records[next(iter(self._records))]
            record = self._records[kind] = _Record()
        if cpu_seconds is None:
            _ran_inline(record, seconds)
        else:
            _ran_in_thread(record, seconds if seconds > _WAITING_SECONDS else cpu_seconds)


def _ran_inline(record: _Record, seconds: float) -> None:
    record.mean += (seconds - record.mean) * _WEIGHT
    record.calls += 1
    if record.calls == _FORGIVEN_AFTER:
        record.trial = _FIRST_TRIAL
    if record.inline and (seconds > STALL_SECONDS or record.mean > INLINE_SECONDS):
        record.inline = False
        record.fast = 0
        # A kind that is slow now and then comes back later and later.
        record.trial = min(record.trial * 2, _LONGEST_TRIAL)


def _ran_in_thread(record: _Record, seconds: float) -> None:
    record.fast = record.fast + 1 if seconds < INLINE_SECONDS else 0
    record.mean = seconds
    if not record.inline and record.fast >= record.trial:
        record.inline = True
        record.calls = 0
