"""Work that need not be done at once: kept for a thread that does it a little later, many at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Long enough for many items to share one wake-up under load.
_COLLECT_SECONDS = 0.05


class Backlog(Generic[T]):
    """A bounded list of items and the thread that takes them.

    Who puts something in never waits: what is too much is refused.
    """

    def __init__(
        self, name: str, work: Callable[[Sequence[T]], None], *, most: int, most_bytes: int = 0
    ) -> None:
        """Prepare; the thread begins with the first item.

        Args:
            name: of the thread.
            work: does some items, in their order.
            most: items that may wait.
            most_bytes: their sizes' sum, with those that are being done; 0 for no bound.
        """
        self._name = name
        self._work = work
        self._most = most
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._items: list[T] = []
        self._new_bytes = self._bytes = 0
        self._awake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, item: T, size: int = 0) -> bool:
        """Keep `item`, of `size` bytes, for the thread; False if there is no room, or it was stopped."""
        with self._lock:
            if len(self._items) >= self._most or self._stopping.is_set():
                return False
            if self._most_bytes and self._bytes + size > self._most_bytes:
                return False
            self._items.append(item)
            self._bytes += size
            self._new_bytes += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        if not self._awake.is_set():
            self._awake.set()
        return True

    def stop(self, deadline: float) -> bool:
        """Take no more, and wait until `deadline` (monotonic) for what is there; whether all was done."""
        with self._lock:
            self._stopping.set()
        self._awake.set()
        if self._thread is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        return self._thread is None or not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            self._awake.wait()
            last = self._stopping.wait(_COLLECT_SECONDS)
            self._awake.clear()
            with self._lock:
                items, self._items = self._items, []
                size, self._new_bytes = self._new_bytes, 0
            try:
                self._work(items)
            except Exception:  # the next ones may do better
                logger.exception("%s failed unexpectedly", self._name)
            del items  # may be large
            with self._lock:
                self._bytes -= size
            if last:
                return
