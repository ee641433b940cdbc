from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.batching.sizes import BatchSizes


def play(sizes: BatchSizes, seconds: Callable[[int], float], batches: int = 500) -> list[int]:
    """Run full batches of the size that is asked for; the sizes in order."""
    used = []
    for _ in range(batches):
        rows = sizes.limit
        used.append(rows)
        sizes.record(rows, seconds(rows))
    return used


def settled(used: list[int]) -> int:
    """The size of most of the last batches."""
    return max(set(used[-200:]), key=used[-200:].count)


def test_it_begins_with_single_rows() -> None:
    assert BatchSizes().limit == 1


def test_a_fixed_cost_for_each_batch_makes_batches_grow() -> None:
    assert settled(play(BatchSizes(), lambda rows: 0.010 + 0.0001 * rows)) >= 256


def test_a_cost_in_proportion_leaves_requests_alone() -> None:
    assert settled(play(BatchSizes(), lambda rows: 0.010 * rows)) == 1


def test_it_stops_where_larger_batches_cost_more_a_row() -> None:
    def seconds(rows: int) -> float:
        return (0.004 + 0.001 * rows) * (1 if rows <= 16 else 3)

    used = play(BatchSizes(), seconds)
    assert settled(used) == 16
    assert used[-200:].count(16) > 150, "its neighbours are tried now and then only"


def test_it_follows_when_the_model_changes_its_ways() -> None:
    sizes = BatchSizes()
    assert settled(play(sizes, lambda rows: 0.010 + 0.0001 * rows)) > 64
    assert settled(play(sizes, lambda rows: 0.001 * rows**2, 3000)) == 1


def test_the_first_batch_of_a_size_does_not_count() -> None:
    seen: set[int] = set()

    def seconds(rows: int) -> float:
        first = rows not in seen
        seen.add(rows)
        return 5.0 if first else 0.010 + 0.0001 * rows

    assert settled(play(BatchSizes(), seconds)) >= 256


@pytest.mark.parametrize(("target", "largest"), [(0.030, 16), (0.012, 1), (0.0001, 1)])
def test_a_batch_keeps_the_latency_target(target: float, largest: int) -> None:
    used = play(BatchSizes(target), lambda rows: 0.010 + 0.001 * rows)
    assert settled(used) == largest


def test_a_target_that_is_missed_later_shrinks_the_batches() -> None:
    sizes = BatchSizes(0.030)
    assert settled(play(sizes, lambda rows: 0.010 + 0.001 * rows)) == 16
    assert settled(play(sizes, lambda rows: 0.020 + 0.002 * rows, 2000)) <= 4


def test_small_batches_of_a_quiet_hour_do_no_harm() -> None:
    sizes = BatchSizes()
    best = settled(play(sizes, lambda rows: (0.004 + 0.001 * rows) * (1 if rows <= 16 else 3)))
    for _ in range(1000):
        sizes.record(1, 0.005)
    assert best / 2 <= sizes.limit <= best * 2


def test_a_batch_that_could_not_be_run_as_one_begins_anew() -> None:
    sizes = BatchSizes()
    play(sizes, lambda rows: 0.010 + 0.0001 * rows)
    sizes.record_failure()
    assert [sizes.limit, *play(sizes, lambda rows: 0.010 + 0.0001 * rows, 10)] == [1] * 11
    assert settled(play(sizes, lambda rows: 0.010 + 0.0001 * rows)) > 1


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 10)), max_size=300),
    st.sampled_from([0.0, 0.001, 1.0]),
)
def test_the_limit_is_a_power_of_two_whatever_happens(
    batches: list[tuple[int, float]], target: float
) -> None:
    sizes = BatchSizes(target)
    for rows, seconds in batches:
        sizes.record(rows, seconds)
        assert sizes.limit in {1 << exponent for exponent in range(11)}
