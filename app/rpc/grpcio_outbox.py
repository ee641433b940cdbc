"""Messages to a client that may not read, without a thread that waits for it."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any


class Outbox:
    """What is to be sent to one client, in order. grpcio's function to send blocks; `put` does not."""

    def __init__(self, send: Callable[[Any], None], threads: futures.Executor) -> None:
        """Send with `send`, in one of `threads` at a time."""
        self._send = send
        self._threads = threads
        self._lock = threading.Lock()
        self._waiting: collections.deque[Any] = collections.deque()
        self._sending = False

    def put(self, message: Any) -> None:
        """Send `message` after those before it."""
        with self._lock:
            self._waiting.append(message)
            if self._sending:
                return
            self._sending = True
        self._threads.submit(self._empty)

    def _empty(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._sending = False
                    return
                message = self._waiting.popleft()
            self._send(message)
