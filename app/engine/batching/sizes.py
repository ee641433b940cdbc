"""How many rows a batch should have, learned from how long batches of each size take. Pure: no clock."""

from __future__ import annotations

import statistics
from collections import deque

# A size has to be better by this much to take the place of another: clocks of busy machines are not exact.
_BETTER = 0.97
# Beyond these there is no doubt, and a few batches tell.
_PLAINLY_BETTER, _PLAINLY_WORSE = 0.9, 1.1
# Batches that a plain case takes, and those after which any case is decided. A long trial is a cheap one: the
# two sizes cost nearly the same.
_FEW, _MANY = 4, 24
# The first batches of a size also pay for memory and plans, and run beside batches of the size before.
_SETTLING = 2
# Batches of the best size after which a neighbour is tried again, for loads change. The next time it takes
# twice as many, as most requests should never meet a trial; but not if the best size now costs otherwise.
_PERIOD, _LONGEST_PERIOD = 64, 4096
_OTHERWISE = 1.5
_LARGEST = 1024


class BatchSizes:
    """The power of two, as the most rows of a batch, at which a row costs least.

    Begins at 1 and doubles as long as that pays. Later the neighbours of the best size are tried
    again, less and less often.
    """

    def __init__(self, latency_target: float = 0.0) -> None:
        """Know nothing yet.

        Args:
            latency_target: seconds that a batch may take; 0 for no bound.
        """
        self._target = latency_target
        self._costs: dict[int, deque[float]] = {}  # the last ones, in seconds a row, by size
        self._best = self._trying = 1
        self._upwards = True
        self._settling = _SETTLING
        self._period = _PERIOD
        self._left = _FEW
        self._cost_when_judged = 0.0

    @property
    def limit(self) -> int:
        """The most rows that the next batch should have."""
        return self._trying

    def seconds(self, size: int) -> float:
        """What a full batch of `size` rows takes; 0 if that is not known."""
        costs = self._costs.get(size)
        return statistics.median(costs) * size if costs else 0.0

    def record(self, rows: int, seconds: float) -> None:
        """Learn from a batch of `rows` rows, at least 1, that took `seconds`."""
        size = 1 << (rows - 1).bit_length()
        if size not in (self._trying, self._best):
            return
        if size == self._trying and self._settling:
            self._settling -= 1
            return
        self._costs.setdefault(size, deque(maxlen=_MANY)).append(seconds / rows)
        if size != self._trying:
            return
        if size == self._best:
            self._go_on()
        else:
            self._judge()

    def record_failure(self) -> None:
        """Learn that a batch could not be run as one: begin again with single rows."""
        self._best = 1
        self._upwards = True
        self._use_best(_PERIOD)

    def _go_on(self) -> None:
        """After a batch of the best size: see whether a neighbour should be tried."""
        self._left -= 1
        if len(self._costs[self._best]) >= _FEW and not self._is_quick(self._best) and self._best > 1:
            self._best //= 2
            self._use_best(_FEW)
        elif self._period > _PERIOD and self._costs_otherwise():
            self._use_best(_PERIOD)
        elif self._left <= 0:
            if self._neighbour() == self._best:
                self._upwards = not self._upwards
            size = self._neighbour()
            if size == self._best:
                self._wait_longer()
                return
            self._trying = size
            self._costs.pop(size, None)
            self._settling = _SETTLING

    def _judge(self) -> None:
        """After a batch of the size that is tried: keep it, let it go, or wait for more of them."""
        tried = self._trying
        count = len(self._costs[tried])
        if count < _FEW:
            return
        best = self.seconds(self._best) / self._best
        ratio = self.seconds(tried) / tried / best if best else 1.0
        if not self._is_quick(tried) or ratio > _PLAINLY_WORSE:
            self._refuse()
        elif ratio < (_BETTER if count >= _MANY else _PLAINLY_BETTER):
            self._best = tried
            self._use_best(_FEW)
        elif count >= _MANY:
            self._refuse()

    def _refuse(self) -> None:
        self._upwards = not self._upwards
        self._trying = self._best
        self._settling = _SETTLING
        known = self._neighbour() in self._costs or self._neighbour() == self._best
        if known:
            self._wait_longer()
        else:
            self._left = _FEW

    def _use_best(self, batches: int) -> None:
        """Run so many batches of the best size before a neighbour is tried; forget how long trials waited."""
        self._trying = self._best
        self._settling = _SETTLING
        self._left = batches
        self._period = _PERIOD
        self._cost_when_judged = 0.0

    def _wait_longer(self) -> None:
        self._left = self._period
        self._period = min(2 * self._period, _LONGEST_PERIOD)
        self._cost_when_judged = self.seconds(self._best)

    def _costs_otherwise(self) -> bool:
        """Whether the best size costs more or less by far than when its neighbours were last judged."""
        judged, now = self._cost_when_judged, self.seconds(self._best)
        return bool(judged) and not judged / _OTHERWISE <= now <= judged * _OTHERWISE

    def _neighbour(self) -> int:
        """The size to try next; the best one itself where there is none."""
        size = self._best * 2 if self._upwards else self._best // 2
        if not 1 <= size <= _LARGEST or (self._upwards and not self._may_be_quick(size)):
            return self._best
        return size

    def _is_quick(self, size: int) -> bool:
        return not self._target or self.seconds(size) <= self._target

    def _may_be_quick(self, larger: int) -> bool:
        """Whether a batch of twice the best size may keep the target, were more rows to cost as before."""
        best, smaller = self.seconds(self._best), self.seconds(self._best // 2)
        expected = best + 2 * (best - smaller) if 0 < smaller < best else 2 * best
        return not self._target or min(expected, self.seconds(larger) or expected) <= self._target
