"""Loads beside requests yield the processor to them."""

from __future__ import annotations

import contextlib
import os
import threading

# The lowest there is. A load still gets a fifteenth part of a processor that one request thread keeps busy.
_NICENESS = 19


class LoadPriority:
    """Lowers the priority of threads that load, once there are requests to yield to. Safe for any thread."""

    def __init__(self) -> None:
        """There are no requests yet."""
        self._requests = False
        self._has_loaded = False

    def requests_begin(self) -> None:
        """From now on loads run beside requests."""
        self._requests = True

    def loaded(self) -> None:
        """A load is done. TensorFlow's own threads, made by the first one, would inherit its priority."""
        self._has_loaded = True

    def yield_to_requests(self) -> None:
        """Lower the priority of the calling thread, for good, if it should yield.

        For work that leaves the GIL alone. A thread that holds it and does not get the processor would keep
        every request waiting.
        """
        if self._requests and self._has_loaded:
            with contextlib.suppress(OSError):  # a sandbox may forbid it
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
