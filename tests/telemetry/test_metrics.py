from __future__ import annotations

import pytest
from hypothesis import strategies as st

from app.telemetry.metrics import Registry, exponential

FINITE = st.floats(-1e9, 1e9)


def test_a_derived_counter_follows_its_histogram() -> None:
    registry = Registry()
    histogram = registry.histogram("/h", (10,))
    derived = registry.derived("/d", histogram, lambda found: int(found.sum))
    assert derived.cells() == []
    histogram.observe(3)
    histogram.observe(30)
    assert derived.cells() == [((), 33)]


def test_a_registry_is_sorted_by_name_and_holds_a_name_once() -> None:
    registry = Registry()
    for name in ("/b", "/a_b", "/a/b"):
        registry.counter(name)
    assert [metric.name for metric in registry.metrics()] == ["/a/b", "/a_b", "/b"]
    with pytest.raises(ValueError, match="/b already"):
        registry.gauge("/b")


def test_the_first_value_is_that_of_the_first_cell() -> None:
    registry = Registry()
    counter = registry.counter("/c", "l")
    assert registry.first_value("/c") == 0
    counter.increment("b", by=5)
    assert registry.first_value("/c") == 5
    counter.increment("a")
    assert registry.first_value("/c") == 1
    registry.histogram("/h", (1,)).observe(7)
    assert registry.first_value("/h") == 0
    assert registry.first_value("/unknown") == 0


def test_exponential_bounds() -> None:
    assert exponential(10, 1.5, 3) == (10, 15, 22.5)
