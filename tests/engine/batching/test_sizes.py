from __future__ import annotations

import itertools
import random
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


def runs_of(used: list[int]) -> list[tuple[int, int]]:
    """The sizes in order, and how many batches of each came in a row."""
    return [(size, len(list(run))) for size, run in itertools.groupby(used)]


def test_noise_does_not_lead_astray() -> None:
    """8 rows are best by 7 %; batches take a tenth more or less, and some a third more."""
    cost = {1: 24, 2: 19.5, 4: 17.2, 8: 16, 16: 18.5}
    found = []
    for seed in range(40):
        chance = random.Random(seed)

        def seconds(rows: int, chance: random.Random = chance) -> float:
            late = 1.3 if chance.random() < 0.1 else 1.0
            return cost.get(rows, 25) * rows * late * chance.gauss(1, 0.1)

        found.append(settled(play(BatchSizes(), seconds)))
    assert found.count(8) >= 35, found


def test_a_plain_case_takes_few_batches_and_a_close_one_more() -> None:
    def seconds(rows: int) -> float:
        return rows * {1: 1.0, 2: 0.5, 4: 0.47}.get(rows, 2.0)

    assert runs_of(play(BatchSizes(), seconds, 80))[:4] == [(1, 6), (2, 12), (4, 32), (8, 6)]


def test_neighbours_are_tried_less_and_less_often() -> None:
    def seconds(rows: int) -> float:
        return (0.004 + 0.001 * rows) * (1 if rows <= 16 else 3)

    of_the_best = [count for size, count in runs_of(play(BatchSizes(), seconds, 20_000)) if size == 16]
    assert of_the_best[1:6] == [66, 130, 258, 514, 1026]
    assert max(of_the_best) == 4098


def test_a_best_size_that_costs_otherwise_is_doubted_soon() -> None:
    sizes = BatchSizes()
    assert settled(play(sizes, lambda rows: (0.004 + 0.001 * rows) * (1 if rows <= 16 else 3), 20_000)) == 16
    assert settled(play(sizes, lambda rows: 0.001 * rows**2, 1000)) <= 2


def test_batches_of_other_sizes_do_not_count() -> None:
    sizes = BatchSizes()
    play(sizes, lambda rows: (0.004 + 0.001 * rows) * (1 if rows <= 16 else 3))
    for rows in (1, 2, 3, 4, 100):
        sizes.record(rows, 1e-6)
    assert sizes.limit in (8, 16, 32)


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
