"""Threads that run the batches of one model, made when they are needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

# A new thread is cold: TensorFlow's oneDNN ops keep what they prepare for a shape by thread.
_IDLE_SECONDS = 60.0


class Threads:
    """As many threads as there is work at a time; they end when idle for long, or closed."""

    def __init__(self, name: str) -> None:
        """Call them `name`; none is started yet."""
        self._name = name
        self._lock = threading.Lock()
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._count = self._free = 0
        self._closed = False

    def run(self, work: Callable[[], None]) -> bool:
        """Have a thread run `work`, which calls `free` when it is as good as done.

        Returns:
            False if it does not run: the system has no room for a thread, or they were closed.
        """
        with self._lock:
            if self._closed:
                return False
            if self._free:
                self._free -= 1
            else:
                try:
                    threading.Thread(target=self._serve, name=self._name, daemon=True).start()
                except RuntimeError:
                    return False
                self._count += 1
            self._work.put(work)
        return True

    def free(self) -> None:
        """Say that a thread may be given more: so it can go on without another being woken."""
        with self._lock:
            self._free += 1

    def close(self) -> None:
        """End the threads, without waiting for them."""
        with self._lock:
            self._closed = True
            for _ in range(self._count):
                self._work.put(None)

    def _serve(self) -> None:
        while self._run_one():
            pass

    def _run_one(self) -> bool:
        # A function of its own: a thread that waits must not hold on to the last batch.
        try:
            work = self._work.get(timeout=_IDLE_SECONDS)
        except Empty:
            with self._lock:
                if not self._free:  # work has just come
                    return True
                self._free -= 1
                self._count -= 1
                return False
        if work is None:
            return False
        work()
        return True
