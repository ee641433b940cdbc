from __future__ import annotations

import threading
from typing import Any

import pytest

from app.telemetry.instruments import Distribution
from app.telemetry.request_times import RequestTimes
from app.telemetry.serving_metrics import ServingMetrics


def cell(metric: Any, *labels: str) -> Any:
    return dict(metric.cells()).get(labels)


def look(metrics: ServingMetrics, name: str) -> Any:
    if name == "count":
        return cell(metrics.request_count, "m", "OK")
    if name == "request":
        return cell(metrics.request_micros, "m", "Predict", "GRPC").sum
    if name == "run":
        return cell(metrics.runtime_micros, "m", "Predict", "TF1").sum
    stages = metrics.ferry.stages
    return [cell(stages, "m", "Predict", "GRPC", stage).sum * 1e9 for stage in ("decode", "run", "encode")]


EXPECTED = {"count": 2, "request": 34, "run": 23, "stages": [5_000, 23_000, 6_000]}


@pytest.mark.parametrize("first", EXPECTED)
def test_what_was_kept_is_there_whichever_of_the_metrics_is_read_first(first: str) -> None:
    metrics = ServingMetrics.make()
    times = RequestTimes(metrics, "m", "Predict", "GRPC")
    times.add(1_000, 3_000, 10_000, 15_000)
    times.add(101_000, 104_000, 120_000, 121_000)
    assert look(metrics, first) == EXPECTED[first]
    assert {name: look(metrics, name) for name in EXPECTED} == EXPECTED


def test_nothing_is_counted_before_there_was_a_request() -> None:
    metrics = ServingMetrics.make()
    RequestTimes(metrics, "m", "Predict", "GRPC")
    assert cell(metrics.request_count, "m", "OK") is None
    assert cell(metrics.request_micros, "m", "Predict", "GRPC") is None
    assert not metrics.ferry.stages.cells()


def test_requests_of_many_threads_are_counted_exactly_while_the_metrics_are_read() -> None:
    metrics = ServingMetrics.make()
    times = RequestTimes(metrics, "m", "Predict", "GRPC")

    def work() -> None:
        for _ in range(5000):
            times.add(0, 1_000, 2_000, 3_000)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    before = 0
    while any(thread.is_alive() for thread in threads):
        now = cell(metrics.request_count, "m", "OK") or 0
        assert before <= now <= 20_000
        before = now
    assert cell(metrics.request_count, "m", "OK") == 20_000
    latency: Distribution = cell(metrics.request_micros, "m", "Predict", "GRPC")
    assert (sum(latency.counts), latency.sum) == (20_000, 60_000)
