"""Loads beside requests yield the processor and the GIL to them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

from app.cpus import compute_in

# Of what a load has computed since its last pause, so long is the next one.
_PAUSE = 3
_LONGEST_PAUSE_SECONDS = 0.1
# A pause is worth while after this.
_LEAST_SECONDS = 2e-3
# Somebody else has computed too if the process took so much more than the load.
_OTHERS = 0.1

P = ParamSpec("P")
T = TypeVar("T")


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

    def load_begins(self) -> None:
        """The calling thread loads now: if it should yield, it does so wherever it calls `breathe`."""
        _pauses.set(_Pauses() if self._yields() else None)

    def yield_to_requests(self) -> None:
        """Let the calling thread run only where others leave a processor idle, if it should yield; for good.

        Linux's idle class: whatever else wakes up takes the processor at once, which it does not from a
        thread that is merely nice. For work that leaves the GIL alone: who holds it and has to wait for
        the processor keeps every request waiting.
        """
        _pauses.set(None)
        if self._yields():
            _step_back()

    def _yields(self) -> bool:
        return self._enabled and self._requests and self._has_loaded


def breathe() -> None:
    """Pause the load of the calling thread for a while, if it yields and others have computed beside it.

    For work that holds the GIL: requests that meet it in one piece take several times as long.
    """
    if (pauses := _pauses.get()) is not None:
        pauses.breathe()


def aside(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What `work` returns or raises, in a thread that yields to requests if the load of this one does.

    For work that leaves the GIL alone, between some that does not.
    """
    if _pauses.get() is None:
        return work(*arguments, **named)
    with ThreadPoolExecutor(1, "ferry-load-aside", initializer=_step_back) as thread:
        return compute_in(thread, work, *arguments, **named)


class _Pauses:
    """Of one load."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._own, self._all = time.thread_time(), time.process_time()

    def breathe(self) -> None:
        own = time.thread_time() - self._own
        if own < _LEAST_SECONDS:
            return
        if time.process_time() - self._all > own * (1 + _OTHERS):
            time.sleep(min(own * _PAUSE, _LONGEST_PAUSE_SECONDS))
        self._begin()


_pauses: ContextVar[_Pauses | None] = ContextVar("pauses of the load in this thread", default=None)


def _step_back() -> None:
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
