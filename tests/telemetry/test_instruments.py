from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.telemetry.instruments import Distribution, Histogram
from app.telemetry.metrics import Registry

FINITE = st.floats(-1e9, 1e9)


def distribution(histogram: Histogram, *labels: str) -> Distribution:
    found = dict(histogram.cells())[labels]
    assert isinstance(found, Distribution)
    return found


def test_a_counter_has_a_cell_for_each_set_of_labels_sorted() -> None:
    counter = Registry().counter("/c", "model", "status")
    assert counter.cells() == []
    counter.increment("b", "OK")
    counter.increment("a", "OK")
    counter.increment("b", "ABORTED", by=5)
    counter.increment("b", "OK")
    assert counter.cells() == [(("a", "OK"), 1), (("b", "ABORTED"), 5), (("b", "OK"), 2)]


def test_a_gauge_keeps_the_last_value_and_reads_0_for_what_is_no_number() -> None:
    gauge = Registry().gauge("/g", "what")
    gauge.set("number", to=3)
    gauge.set("number", to=7)
    gauge.set("text", to="x")
    gauge.set("truth", to=True)
    assert gauge.cells() == [(("number",), 7), (("text",), 0), (("truth",), 0)]


def test_a_value_that_equals_a_bound_lies_in_the_next_bucket() -> None:
    histogram = Registry().histogram("/h", (1, 2, 4))
    for value in (0, 1, 1.5, 2, 4, 100):
        histogram.observe(value)
    found = distribution(histogram)
    assert (found.counts, found.sum) == ((1, 2, 1, 2), 108.5)


@given(st.lists(FINITE, min_size=1, max_size=20, unique=True).map(sorted), st.lists(FINITE, min_size=1))
def test_every_value_lies_in_one_bucket(bounds: list[float], values: list[float]) -> None:
    histogram = Registry().histogram("/h", bounds)
    for value in values:
        histogram.observe(value)
    found = distribution(histogram)
    below = [sum(value < bound for value in values) for bound in (*bounds, math.inf)]
    assert [sum(found.counts[: index + 1]) for index in range(len(below))] == below
    assert math.isclose(found.sum, math.fsum(values), rel_tol=1e-9, abs_tol=1e-3)


@pytest.mark.parametrize(
    "use",
    [
        lambda registry: registry.counter("/c", "a").increment(),
        lambda registry: registry.gauge("/g", "a").set("x", "y", to=1),
        lambda registry: registry.histogram("/h", (1,)).observe(1, "x"),
    ],
)
def test_the_labels_have_to_fit(use: Callable[[Registry], None]) -> None:
    with pytest.raises(TypeError, match="has the labels"):
        use(Registry())


def test_threads_lose_nothing() -> None:
    registry = Registry()
    counter, histogram = registry.counter("/c", "l"), registry.histogram("/h", (5,), "l")
    threads, times = 8, 3000
    together = threading.Barrier(threads)

    def work(number: int) -> None:
        together.wait()
        for _ in range(times):
            counter.increment(str(number % 2))
            histogram.observe(number, "x")

    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert counter.cells() == [(("0",), 4 * times), (("1",), 4 * times)]
    found = distribution(histogram, "x")
    assert (found.counts, found.sum) == ((5 * times, 3 * times), 28.0 * times)


def test_a_series_is_what_observing_is() -> None:
    one, other = (Registry().histogram("/h", (1.0, 5.0), "label") for _ in range(2))
    add = one.series("a")
    assert one.cells() == [], "nothing was added yet"
    for value in range(1000):
        add(value % 7)
        other.observe(value % 7, "a")
    assert one.cells() == other.cells()
    one.observe(3, "a")
    other.observe(3, "a")
    assert one.cells() == other.cells()


def test_a_series_loses_nothing_between_threads() -> None:
    histogram = Registry().histogram("/h", (1.0,))
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(lambda: [histogram.series()(2) for _ in range(2000)])
        for _ in range(50):
            histogram.cells()
    ((_, found),) = histogram.cells()
    assert isinstance(found, Distribution)
    assert (found.counts, found.sum) == ((0, 8000), 16000)
