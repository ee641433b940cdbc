"""Counters, gauges and histograms with labels.

Own code, as prometheus_client can render neither TensorFlow Serving's names nor its bucket rule and
number format, and takes several microseconds an observation; here it is a fraction of one.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

# So many values of a series wait at most: putting them into buckets must not hold a request up for long.
_LATER = 256

Labels = tuple[str, ...]
Cells = list[tuple[Labels, "float | Distribution"]]


@dataclass(frozen=True)
class Distribution:
    """What a histogram holds for one set of labels.

    Attributes:
        bounds: the upper bounds, ascending. A value that equals a bound lies in the next bucket.
        counts: the values in each bucket; the last one, for what is above all bounds, makes it one
            longer than `bounds`.
        sum: of all values.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float


class Metric(Protocol):
    """What an exporter reads.

    Attributes:
        name: the internal name, such as `/tensorflow/serving/request_count`.
        kind: `counter`, `gauge` or `histogram`.
        labels: the names of the labels, in the order in which they are printed.
        lazy: whether it is kept from exporters until it has a cell.
        text: what it means; may be empty.
    """

    name: str
    kind: str
    labels: Labels
    lazy: bool
    text: str

    def cells(self) -> Cells:
        """Values of labels to value, sorted by labels."""


class _Labelled:
    """What all instruments share. One lock each: it is held for well below a microsecond.

    Attributes:
        sources: called before it is read: they add what they kept to themselves so far.
    """

    kind = ""

    def __init__(self, name: str, labels: Labels, lazy: bool, text: str = "") -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self.lazy = lazy
        self.sources: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def _collect(self) -> None:
        for source in list(self.sources):
            source()

    def _check(self, values: Labels) -> None:
        if len(values) != len(self.labels):
            raise TypeError(f"{self.name} has the labels {self.labels}; got {values}")


class Counter(_Labelled):
    """Sums that grow, one for each set of labels."""

    kind = "counter"

    def __init__(self, name: str, labels: Labels = (), *, lazy: bool = False, text: str = "") -> None:
        """Made by `Registry.counter`."""
        super().__init__(name, labels, lazy, text)
        self._cells: dict[Labels, int] = {}

    def increment(self, *values: str, by: int = 1) -> None:
        """Add `by` to the cell with these values of the labels."""
        with self._lock:
            try:
                self._cells[values] += by
            except KeyError:
                self._check(values)
                self._cells[values] = by

    def cells(self) -> Cells:
        """Values of labels to sum, sorted by labels."""
        self._collect()
        with self._lock:
            return sorted(self._cells.items(), key=_by_labels)


class Gauge(_Labelled):
    """Values that are set, one for each set of labels."""

    kind = "gauge"

    def __init__(self, name: str, labels: Labels = (), *, lazy: bool = False) -> None:
        """Made by `Registry.gauge`."""
        super().__init__(name, labels, lazy)
        self._cells: dict[Labels, int | str] = {}

    def set(self, *values: str, to: int | str) -> None:
        """Set the cell with these values of the labels."""
        with self._lock:
            self._check(values)
            self._cells[values] = to

    def cells(self) -> Cells:
        """Values of labels to value, sorted by labels; texts and truths read 0, as TensorFlow's do."""
        with self._lock:
            cells = sorted(self._cells.items(), key=_by_labels)
        return [(values, value if type(value) is int else 0) for values, value in cells]


class _Bins:
    __slots__ = ("counts", "later", "sum")

    def __init__(self, size: int) -> None:
        self.counts = [0] * size
        self.sum = 0.0
        self.later: list[float] = []


class Histogram(_Labelled):
    """Distributions of values, one for each set of labels."""

    kind = "histogram"

    def __init__(
        self, name: str, bounds: Sequence[float], labels: Labels = (), *, lazy: bool = False, text: str = ""
    ) -> None:
        """Made by `Registry.histogram`."""
        super().__init__(name, labels, lazy, text)
        self.bounds = tuple(bounds)
        self._cells: dict[Labels, _Bins] = {}
        self._adders: dict[Labels, Callable[[float], None]] = {}

    def observe(self, value: float, *values: str) -> None:
        """Add `value` to the distribution with these values of the labels."""
        add = self._adders.get(values)
        if add is None:
            add = self.series(*values)
        add(value)

    def series(self, *values: str) -> Callable[[float], None]:
        """A function that adds a value to the distribution with these values of the labels.

        Values are put into buckets many at a time, or when they are read.
        """
        with self._lock:
            if values in self._adders:
                return self._adders[values]
            bins = self._bins(values)
        later, put = bins.later, bins.later.append  # which no other thread interrupts

        def add(value: float) -> None:
            put(value)
            if len(later) >= _LATER:
                with self._lock:
                    self._settle(bins)

        return self._adders.setdefault(values, add)

    def _bins(self, values: Labels) -> _Bins:
        bins = self._cells.get(values)
        if bins is None:
            self._check(values)
            bins = self._cells[values] = _Bins(len(self.bounds) + 1)
        return bins

    def _settle(self, bins: _Bins) -> None:
        """Put into buckets what waits for it. Under the lock; others may add meanwhile."""
        values = bins.later[:]
        del bins.later[: len(values)]
        for value in values:
            bins.counts[bisect_right(self.bounds, value)] += 1
        bins.sum += sum(values)

    def cells(self) -> Cells:
        """Values of labels to distribution, sorted by labels."""
        self._collect()
        with self._lock:
            for bins in self._cells.values():
                self._settle(bins)
            read = [
                (values, Distribution(self.bounds, tuple(bins.counts), bins.sum))
                for values, bins in self._cells.items()
                if any(bins.counts)
            ]
        return sorted(read, key=_by_labels)


def _by_labels(cell: tuple[Labels, object]) -> Labels:
    return cell[0]
