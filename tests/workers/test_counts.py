from __future__ import annotations

from app.telemetry.instruments import Distribution
from app.telemetry.metrics import Registry
from app.workers.counts import Counts, without_gauges


def counts(requests: int, in_flight: int, state: int, *times: float) -> Counts:
    """A worker's metrics."""
    registry = Registry()
    registry.counter("/requests", "model").increment("a", by=requests)
    registry.gauge("/ferry/requests_in_flight").set(to=in_flight)
    registry.gauge("/state").set(to=state)
    seconds = registry.histogram("/seconds", (1.0, 2.0))
    for each in times:
        seconds.observe(each)
    return Counts.of(registry.metrics())


def test_counters_and_histograms_add_up_and_gauges_by_their_kind() -> None:
    total = counts(2, 1, 7, 0.5).plus(counts(3, 4, 9, 1.5, 5.0))
    assert total.cells("/requests") == [(("a",), 5)]
    assert total.cells("/ferry/requests_in_flight") == [((), 5)]
    assert total.cells("/state") == [((), 7)]
    assert total.cells("/seconds") == [((), Distribution((1.0, 2.0), (1, 1, 1), 7.0))]
    assert total.cells("/none") == []


def test_what_only_one_of_them_has_is_there() -> None:
    assert Counts().plus(counts(2, 1, 7)).cells("/requests") == [(("a",), 2)]
    assert counts(2, 1, 7).plus(Counts()).cells("/requests") == [(("a",), 2)]


def test_gauges_end_with_their_worker() -> None:
    left = without_gauges(counts(2, 1, 7, 0.5))
    assert sorted(left.metrics) == ["/requests", "/seconds"]
