"""The threads in which heavy models compute: behind all others wherever both want a processor.

Who has computed for milliseconds stands last in the queue for the processor when it comes back for the GIL,
and keeps every request waiting while it holds it. So heavy runs are handed over to threads that are nice, as
TensorFlow's own are, while what a request does before and after goes on in its own thread.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from app.cpus import compute_in

HEAVY_SECONDS = 1e-3
"""Runs that take longer are handed over, which costs some tens of microseconds."""

NICENESS = 10
"""What these threads add to the process's own niceness.

Beside a thread that is less nice by ten and wants all it can get, Linux leaves one a tenth, and lets that
other go first when it wakes up. Not the idle class, in which another process could starve the models."""

# Threads are made as runs need them: request threads bound their number. No model waits for another's end.
_MOST_THREADS = 4096

P = ParamSpec("P")
T = TypeVar("T")


class ComputeThreads:
    """Runs what computes for long. Safe for any number of threads."""

    def __init__(self) -> None:
        """Make no thread yet."""
        self._threads = ThreadPoolExecutor(
            _MOST_THREADS, thread_name_prefix="ferry-compute", initializer=_step_back
        )
        self._loop_thread = threading.main_thread()

    def run(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """What `work` returns or raises; its own threads, if it makes some, are as nice."""
        return compute_in(self._threads, work, *arguments, **named)

    def take(self, seconds: float) -> bool:
        """Whether a run that is expected to last so long is to be handed over.

        Never on the event loop: what runs there was found to be fast, and nobody may wait there for a thread
        that others go before. Nor from a load that yields to requests even more.
        """
        if seconds <= HEAVY_SECONDS or threading.current_thread() is self._loop_thread:
            return False
        return os.sched_getscheduler(0) != os.SCHED_IDLE


def _step_back() -> None:
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        nice = os.getpriority(os.PRIO_PROCESS, 0) + NICENESS
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
