"""How many rows a batch should have, learned from how long batches of each size take. Pure: no clock."""

from __future__ import annotations

# A size has to be better by this much to take the place of another: clocks of busy machines are not exact.
_BETTER = 0.97
# Weight of the newest measurement in the running mean of a size.
_WEIGHT = 0.3
# Batches of a size that are measured before it is judged.
_SAMPLES = 4
# Batches of the best size after which a neighbour that was judged before is tried again: loads change.
_PERIOD = 64
_LARGEST = 1024


class BatchSizes:
    """The power of two, as the most rows of a batch, at which a row costs least.

    Begins at 1 and doubles as long as that pays. Later the neighbours of the best size are tried
    again now and then.
    """

    def __init__(self, latency_target: float = 0.0) -> None:
        """Know nothing yet.

        Args:
            latency_target: seconds that a batch may take; 0 for no bound.
        """
        self._target = latency_target
        self._cost: dict[int, float] = {}  # seconds a row, by size
        self._warm: set[int] = set()
        self._best = self._trying = 1
        self._left = _SAMPLES
        self._upwards = True

    @property
    def limit(self) -> int:
        """The most rows that the next batch should have."""
        return self._trying

    def record(self, rows: int, seconds: float) -> None:
        """Learn from a batch of `rows` rows, at least 1, that took `seconds`."""
        size = 1 << (rows - 1).bit_length()
        if size not in self._warm:  # the first batch of a size also pays for memory and plans
            self._warm.add(size)
            return
        cost = seconds / rows
        mean = self._cost.get(size, cost)
        self._cost[size] = mean + _WEIGHT * (cost - mean)
        if size == self._trying:
            self._left -= 1
            if self._left <= 0:
                self._decide()

    def record_failure(self) -> None:
        """Learn that a batch could not be run as one: begin again with single rows."""
        self._best = self._trying = 1
        self._upwards = True
        self._left = _PERIOD

    def _decide(self) -> None:
        tried = self._trying
        if tried != self._best:
            if self._is_quick(tried) and self._cost[tried] < self._cost[self._best] * _BETTER:
                self._best = tried
            else:
                self._upwards = not self._upwards
            self._trying = self._best
        else:
            if not self._is_quick(tried):
                self._best = max(1, tried // 2)
            if self._neighbour() == self._best:
                self._upwards = not self._upwards
            self._trying = self._neighbour()
        known = self._neighbour() in self._cost
        self._left = _PERIOD if self._trying == self._best and known else _SAMPLES

    def _neighbour(self) -> int:
        """The size to try next; the best one itself where there is none."""
        size = self._best * 2 if self._upwards else self._best // 2
        if not 1 <= size <= _LARGEST or (self._upwards and not self._may_be_quick(size)):
            return self._best
        return size

    def _is_quick(self, size: int) -> bool:
        return not self._target or self._seconds(size) <= self._target

    def _may_be_quick(self, larger: int) -> bool:
        """Whether a batch of twice the best size may keep the target, were more rows to cost as before."""
        best, smaller = self._seconds(self._best), self._seconds(self._best // 2)
        expected = best + 2 * (best - smaller) if 0 < smaller < best else 2 * best
        return not self._target or min(expected, self._seconds(larger) or expected) <= self._target

    def _seconds(self, size: int) -> float:
        """What a full batch takes; 0 if that is not known."""
        return self._cost.get(size, 0.0) * size
