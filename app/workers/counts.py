"""What a worker has counted, as it can be handed over and added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from app.telemetry.instruments import Cells, Distribution, Labels, Metric

Value = float | Distribution
# Of the gauges these add up; what the others say is the same in every worker, or holds for one alone.
_ADD_UP = (
    "/ferry/requests_in_flight",
    *("process_open_fds", "process_max_fds", "process_resident_memory_bytes", "process_virtual_memory_bytes"),
)


@dataclass(frozen=True)
class Counted:
    """A metric at one moment.

    Attributes:
        kind: `counter`, `gauge` or `histogram`.
        cells: value by labels.
    """

    kind: str
    cells: Mapping[Labels, Value]


@dataclass(frozen=True)
class Counts:
    """All metrics of a worker at one moment, by internal name."""

    metrics: Mapping[str, Counted] = field(default_factory=dict)

    @staticmethod
    def of(metrics: Iterable[Metric]) -> Counts:
        """What these hold now."""
        return Counts({metric.name: Counted(metric.kind, dict(metric.cells())) for metric in metrics})

    def plus(self, other: Counts) -> Counts:
        """Both added up, cell by cell; a gauge that does not add up is taken from `self` if it is there."""
        total = dict(other.metrics)
        for name, counted in self.metrics.items():
            cells = dict(counted.cells)
            if name in other.metrics and (counted.kind != "gauge" or name in _ADD_UP):
                for labels, value in other.metrics[name].cells.items():
                    cells[labels] = _added(cells[labels], value) if labels in cells else value
            total[name] = Counted(counted.kind, cells)
        return Counts(total)

    def cells(self, name: str) -> Cells:
        """Those of the metric `name`, sorted by labels; none if there is no such metric."""
        counted = self.metrics.get(name)
        return [] if counted is None else sorted(counted.cells.items(), key=lambda cell: cell[0])


def without_gauges(counts: Counts) -> Counts:
    """What of `counts` is true beyond the end of its worker."""
    return Counts({name: counted for name, counted in counts.metrics.items() if counted.kind != "gauge"})


def _added(one: Value, other: Value) -> Value:
    if isinstance(one, Distribution) and isinstance(other, Distribution):
        if one.bounds != other.bounds:
            raise ValueError("these histograms have different buckets")
        counts = tuple(a + b for a, b in zip(one.counts, other.counts, strict=True))
        return Distribution(one.bounds, counts, one.sum + other.sum)
    assert not isinstance(one, Distribution)
    assert not isinstance(other, Distribution)
    return one + other
