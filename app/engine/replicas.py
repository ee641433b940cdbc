"""One model on several devices: a copy on each, requests to the least busy."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack

from app.engine.dtypes import Array
from app.engine.model import Model


class ReplicatedModel(Model):
    """Several models that are the same but for their device, as one.

    A request goes to the replica with the fewest requests in it; among equals, in turn.
    """

    def __init__(self, replicas: Sequence[Model]) -> None:
        """Take over `replicas`, at least one. Their state, if a run changes it, is each one's own."""
        super().__init__(replicas[0].signature_defs)
        self._replicas = tuple(replicas)
        self._lock = threading.Lock()
        self._in_flight = [0] * len(replicas)
        self._next = 0

    def call(
        self,
        feeds: tuple[str, ...],
        values: Sequence[Array],
        fetches: tuple[str, ...],
        deadline: float | None,
    ) -> list[Array]:
        """Run on one of the replicas."""
        index = self._acquire()
        try:
            return self._replicas[index].call(feeds, values, fetches, deadline)
        finally:
            with self._lock:
                self._in_flight[index] -= 1

    def _acquire(self) -> int:
        """Choose a replica and count the request in."""
        count = len(self._replicas)
        with self._lock:
            index = min(range(count), key=lambda i: (self._in_flight[i], (i - self._next) % count))
            self._in_flight[index] += 1
            self._next = (index + 1) % count
        return index

    def close(self) -> None:
        """Close every replica, even if closing one fails."""
        with ExitStack() as stack:
            for replica in self._replicas:
                stack.callback(replica.close)
