"""Loads beside requests yield the processor to them."""

from __future__ import annotations

import contextlib
import os


class LoadPriority:
    """Lowers the priority of threads that load, once there are requests to yield to. Safe for any thread."""

    def __init__(self, *, enabled: bool = True) -> None:
        """There are no requests yet.

        Args:
            enabled: False lets loads compete with requests.
        """
        self._enabled = enabled
        self._requests = False
        self._has_loaded = False

    def requests_begin(self) -> None:
        """From now on loads run beside requests."""
        self._requests = True

    def loaded(self) -> None:
        """A load is done. TensorFlow's own threads, made by the first one, would inherit its priority."""
        self._has_loaded = True

    def yield_to_requests(self) -> None:
        """Let the calling thread run only where others leave a processor idle, if it should yield; for good.

        Linux's idle class: whatever else wakes up takes the processor at once, which it does not from a
        thread that is merely nice. For work that leaves the GIL alone: who holds it and has to wait for
        the processor keeps every request waiting.
        """
        if self._enabled and self._requests and self._has_loaded:
            with contextlib.suppress(OSError):  # a sandbox may forbid it
                os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
