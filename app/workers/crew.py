"""What the workers of one server share: memory to tell each other of, and bells to make each other look.

The parent makes it before it forks. Each worker alone writes what is its own, except that the parent clears
it when the worker has died; so there are no locks that a worker could die with, and whatever it has told is
there until then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import threading
from collections.abc import Iterator
from typing import Any

from app.workers.counts import Counts, without_gauges
from app.workers.region import Region

_STATUS_BYTES = 8 << 20
_COUNTS_BYTES = 32 << 20
_PROPOSAL_BYTES = 4 << 20
# So many of the dead are remembered by their process, so that none is counted twice while it is laid to rest.
_REMEMBERED = 64


class Crew:
    """The workers, by their numbers from 0 on. In each process `index` says which one it is.

    Attributes:
        count: of workers.
        index: of this process's worker; the parent sets it before each fork.
    """

    def __init__(self, count: int) -> None:
        """Make room for `count` workers."""
        self.count = count
        self.index = 0
        self._statuses = [Region(_STATUS_BYTES) for _ in range(count)]
        self._counts = [Region(_COUNTS_BYTES) for _ in range(count)]
        self._past = Region(_COUNTS_BYTES)
        self._proposal = Region(_PROPOSAL_BYTES)
        self._bells = [os.eventfd(0) for _ in range(count)]
        self._turn = os.memfd_create("ferry-turn")
        self._threads_turn = threading.Lock()

    # --- what workers tell of themselves ---

    def tell(self, status: Any) -> bool:
        """Let the others know the status of this worker; False if it is too large."""
        if not self._statuses[self.index].write(pickle.dumps(status)):
            return False
        self.ring()
        return True

    def told(self) -> dict[int, Any]:
        """The last status of each other worker that has one."""
        others = {index: _content(region) for index, region in enumerate(self._statuses)}
        return {index: told for index, told in others.items() if index != self.index and told is not None}

    def ring(self) -> None:
        """Make all other workers look."""
        for index, bell in enumerate(self._bells):
            if index != self.index:
                os.eventfd_write(bell, 1)

    def wait(self) -> None:
        """Until this worker's bell rings, or has rung since the last time."""
        os.eventfd_read(self._bells[self.index])

    def ring_own(self) -> None:
        """Make this worker's own waiting thread look."""
        os.eventfd_write(self._bells[self.index], 1)

    # --- what all of them serve ---

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Only one worker, and one thread of it, at a time; ends with the process as well."""
        with self._threads_turn:
            fcntl.lockf(self._turn, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._turn, fcntl.LOCK_UN)

    def propose(self, proposal: Any) -> bool:
        """Replace the proposal that `proposed` returns everywhere; False if it is too large."""
        if not self._proposal.write(pickle.dumps(proposal)):
            return False
        self.ring()
        return True

    def proposed(self) -> Any:
        """The last proposal; None before the first. It outlives the worker that made it."""
        return _content(self._proposal)

    # --- what they count ---

    def count_own(self, counts: Counts) -> bool:
        """Let the others read what this worker has counted; False if it is too much."""
        return self._counts[self.index].write(pickle.dumps((os.getpid(), counts)))

    def counted(self) -> tuple[dict[int, tuple[int, Counts]], Counts]:
        """Process and counts of each worker by its number; and those of the dead, added up."""
        found = {index: _content(region) for index, region in enumerate(self._counts)}
        # Read last: who was laid to rest meanwhile is in it, and left out of the others.
        rested, past = self._rested()
        return {index: entry for index, entry in found.items() if entry and entry[0] not in rested}, past

    def _rested(self) -> tuple[list[int], Counts]:
        return _content(self._past) or ([], Counts())

    # --- what the parent does ---

    def lay_to_rest(self, index: int) -> None:
        """A worker has died: keep what it has counted, and make the others go on without it."""
        if counted := _content(self._counts[index]):
            process, counts = counted
            rested, past = self._rested()
            total = past.plus(without_gauges(counts))
            if self._past.write(pickle.dumps(([*rested, process][-_REMEMBERED:], total))):
                self._counts[index].write(b"")
        self._statuses[index].write(b"")
        for bell in self._bells:
            os.eventfd_write(bell, 1)


def _content(region: Region) -> Any:
    """What was written; None if nothing was. Only this server's own processes can have written it."""
    content = region.read()
    return pickle.loads(content) if content else None  # noqa: S301
