"""The registry of a server's metrics, which exporters read, and metrics that are worked out when read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from app.telemetry.instruments import Cells, Counter, Distribution, Gauge, Histogram, Labels, Metric


class Derived:
    """A counter without labels that is read off a histogram without labels."""

    kind = "counter"
    labels: Labels = ()
    lazy = False
    text = ""

    def __init__(self, name: str, source: Histogram, read: Callable[[Distribution], int]) -> None:
        """Made by `Registry.derived`."""
        self.name = name
        self._source = source
        self._read = read

    def cells(self) -> Cells:
        """One cell, or none as long as the histogram has none."""
        return [
            (values, self._read(found))
            for values, found in self._source.cells()
            if isinstance(found, Distribution)
        ]


@dataclass
class View:
    """A metric that is worked out when it is read.

    Attributes:
        name: the internal name.
        kind: `counter`, `gauge` or `histogram`.
        labels: the names of the labels.
        read: the cells, sorted by labels; called in any thread.
        text: what it means.
        lazy: never.
    """

    name: str
    kind: str
    labels: Labels
    read: Callable[[], Cells]
    text: str
    lazy: bool = False

    def cells(self) -> Cells:
        """What `read` tells now."""
        return self.read()


M = TypeVar("M", bound=Metric)


class Registry:
    """The metrics of a server by internal name. Filled at the start, then only read."""

    def __init__(self) -> None:
        """Without metrics."""
        self._metrics: dict[str, Metric] = {}

    def counter(self, name: str, *labels: str, text: str = "") -> Counter:
        """Make a counter with these labels."""
        return self._add(Counter(name, labels, text=text))

    def gauge(self, name: str, *labels: str) -> Gauge:
        """Make a gauge with these labels."""
        return self._add(Gauge(name, labels))

    def histogram(
        self, name: str, bounds: Sequence[float], *labels: str, lazy: bool = False, text: str = ""
    ) -> Histogram:
        """Make a histogram with these labels; a lazy one is shown from its first value on."""
        return self._add(Histogram(name, bounds, labels, lazy=lazy, text=text))

    def view(self, name: str, kind: str, labels: Labels, read: Callable[[], Cells], text: str) -> View:
        """Make a metric that is `read` whenever somebody asks; `text` says what it means."""
        return self._add(View(name, kind, labels, read, text))

    def derived(self, name: str, source: Histogram, read: Callable[[Distribution], int]) -> Derived:
        """Make a counter that is `read` off `source`."""
        return self._add(Derived(name, source, read))

    def _add(self, metric: M) -> M:
        if metric.name in self._metrics:
            raise ValueError(f"there is a metric {metric.name} already")
        self._metrics[metric.name] = metric
        return metric

    def metrics(self) -> list[Metric]:
        """All of them, sorted by internal name."""
        return [self._metrics[name] for name in sorted(self._metrics)]

    def first_value(self, name: str) -> int:
        """The value of the first cell of the metric called `name`.

        0 without such a metric or cell, and for a histogram, which has no single value.
        """
        metric = self._metrics.get(name)
        cells = metric.cells() if metric is not None else []
        value = cells[0][1] if cells else 0
        return value if isinstance(value, int) else 0


def exponential(first: float, factor: float, count: int) -> tuple[float, ...]:
    """`count` bounds, each `factor` times the one before."""
    bounds = [first]
    while len(bounds) < count:
        bounds.append(bounds[-1] * factor)
    return tuple(bounds)
