from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.admission import Admission, TokenBucket, whole_seconds
from app.errors import Code, ServingError
from app.options import Options
from app.telemetry.metrics import Registry


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def admission(clock: Clock | None = None, **options: Any) -> tuple[Admission, dict[str, int]]:
    """An admission for the model `m`, and a view of what it refused."""
    counter = Registry().counter("/refused", "reason")

    class Refused(dict[str, int]):
        def __missing__(self, reason: str) -> int:
            return {labels[0]: int(str(value)) for labels, value in counter.cells()}.get(reason, 0)

    return Admission(Options(**options), counter, lambda: ["m"], clock or Clock()), Refused()


def test_without_limits_everybody_enters() -> None:
    made, refused = admission()
    assert not made.limits
    for _ in range(1000):
        made.enter()
        made.check_rate("m")
    assert refused["in_flight"] == refused["rate"] == 0


def test_places_are_given_back_once() -> None:
    made, refused = admission(max_in_flight_requests=2)
    first, _second = made.enter(), made.enter()
    for _ in range(2):
        with pytest.raises(ServingError, match="works on 2 requests already") as caught:
            made.enter()
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert caught.value.retry_after == 1
    assert refused["in_flight"] == 2
    first()
    first()
    made.enter()
    with pytest.raises(ServingError):
        made.enter()


def test_who_asked_before_enters_all_the_same() -> None:
    made, _ = admission(max_in_flight_requests=1)
    assert made.refusal() is None
    made.enter()
    leave = made.enter(asked=True)
    leave()
    assert made.refusal() is not None


def test_places_from_many_threads_are_all_given_back() -> None:
    made, _ = admission(max_in_flight_requests=4)

    def work() -> None:
        for _ in range(2000):
            try:
                leave = made.enter()
            except ServingError:
                continue
            leave()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [made.enter() for _ in range(4)]
    with pytest.raises(ServingError):
        made.enter()


def test_a_rate_allows_a_second_at_once_and_then_refills() -> None:
    clock = Clock()
    made, refused = admission(clock, max_requests_per_second_per_model=4.0)
    for _ in range(4):
        made.check_rate("m")
    with pytest.raises(ServingError, match="Model m takes 4 requests a second") as caught:
        made.check_rate("m")
    assert caught.value.retry_after == pytest.approx(0.25)
    assert refused["rate"] == 1
    clock.now += 0.25
    made.check_rate("m")
    with pytest.raises(ServingError):
        made.check_rate("m")


def test_a_rate_below_one_takes_one_request_at_a_time() -> None:
    clock = Clock()
    made, _ = admission(clock, max_requests_per_second_per_model=0.5)
    made.check_rate("m")
    with pytest.raises(ServingError) as caught:
        made.check_rate("m")
    assert caught.value.retry_after == pytest.approx(2)


def test_names_that_are_not_served_leave_nothing_behind() -> None:
    made, refused = admission(max_requests_per_second_per_model=1.0)
    for number in range(100):
        made.check_rate(f"made-up-{number}")
    assert refused["rate"] == 0
    assert not made._buckets


@given(st.floats(0.1, 100), st.lists(st.floats(0, 3), max_size=60))
def test_no_second_gives_more_than_the_rate_and_its_burst(rate: float, pauses: list[float]) -> None:
    bucket, now, taken = TokenBucket.full(rate, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        wait = bucket.take(now)
        assert wait >= 0
        taken += wait == 0
        assert taken <= max(1.0, rate) + rate * now + 1e-6


def test_a_clock_that_stands_still_gives_nothing() -> None:
    bucket = TokenBucket.full(1.0, 5.0)
    assert bucket.take(5.0) == 0
    assert bucket.take(4.0) == pytest.approx(1.0)  # not even one that goes back


@pytest.mark.parametrize(("seconds", "told"), [(0.01, 1), (1.0, 1), (1.2, 2)])
def test_http_knows_whole_seconds(seconds: float, told: int) -> None:
    assert whole_seconds(seconds) == told
