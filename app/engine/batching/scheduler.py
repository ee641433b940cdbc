"""The one pool of threads that runs the batches of all models."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any

from app.engine.batching.queue import NEVER, Batch, Queue
from app.errors import Code, ServingError

logger = logging.getLogger(__name__)


class Scheduler:
    """Threads that visit the queues in turn and run one batch a visit.

    It knows a queue only while something waits in it: a queue is made and forgotten without telling.
    Idle threads sleep; at most one of them has an alarm, for the moment when the next batch is ready.
    """

    def __init__(self, threads: int, name: str) -> None:
        """Name `threads` threads after `name`; none is started yet."""
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        # Guards what follows, and the state of every queue.
        self._changed = threading.Condition(threading.Lock())
        self._waiting: deque[Queue[Any]] = deque()
        self._alarm = NEVER
        self._draining = False
        self._stopped = False

    def start(self) -> None:
        """Start the threads.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if the system has no room for that many.
        """
        for number, thread in enumerate(self._threads):
            try:
                thread.start()
            except RuntimeError as error:
                raise ServingError(
                    Code.RESOURCE_EXHAUSTED,
                    f"num_batch_threads is {len(self._threads)}, but only {number} threads could be started "
                    f"({error}); use fewer.",
                ) from error

    def submit(self, queue: Queue[Any], task: Any) -> None:
        """Put `task` into `queue`, to be run with others by one of the threads.

        Raises:
            ServingError: what `Queue.add` raises; UNAVAILABLE once the pool was stopped.
        """
        with self._changed:
            if self._stopped:
                raise ServingError(Code.UNAVAILABLE, "The server is stopping.")
            was_empty, was_ready_at = queue.is_empty, queue.ready_at
            queue.add(task, time.monotonic())
            if was_empty:
                self._waiting.append(queue)
            if queue.ready_at < min(was_ready_at, self._alarm) or self._draining:
                self._changed.notify()

    def drain(self) -> None:
        """From now on no batch waits for more rows: hardly any will come."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Take no more tasks; the threads end, without being waited for, once nothing waits any more."""
        with self._changed:
            self._stopped = self._draining = True
            self._changed.notify_all()

    def _work(self) -> None:
        while self._run_one():
            pass

    def _run_one(self) -> bool:
        # A function of its own: an idle thread must not hold on to the last batch and its model.
        work = self._next_batch()
        if work is None:
            return False
        queue, batch = work
        try:
            queue.run(batch)
        except BaseException:  # `run` answers its tasks itself, whatever happens; the thread goes on
            logger.exception("A batch ended in an unexpected error")
        return True

    def _next_batch(self) -> tuple[Queue[Any], Batch[Any]] | None:
        """Wait for a batch that is ready; None when the pool has stopped and nothing waits."""
        with self._changed:
            while (work := self._take()) is None:
                if self._stopped:
                    return None
                ready_at = self._ready_at()
                if ready_at >= self._alarm:
                    self._changed.wait()
                else:
                    self._alarm = ready_at
                    self._changed.wait(min(max(0.0, ready_at - time.monotonic()), threading.TIMEOUT_MAX))
                    if self._alarm == ready_at:
                        self._alarm = NEVER
            if self._ready_at() < self._alarm:
                self._changed.notify()  # somebody else is to run, or to wait for, what comes next
            return work

    def _take(self) -> tuple[Queue[Any], Batch[Any]] | None:
        now = NEVER if self._draining else time.monotonic()
        for _ in range(len(self._waiting)):
            queue = self._waiting.popleft()
            batch = queue.take(now)
            if not queue.is_empty:
                self._waiting.append(queue)
            if batch is not None:
                return queue, batch
        return None

    def _ready_at(self) -> float:
        return min((queue.ready_at for queue in self._waiting), default=NEVER)
