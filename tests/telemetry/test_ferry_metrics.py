from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.telemetry.ferry_metrics import FerryMetrics, RunClock, Traffic
from app.telemetry.instruments import Distribution
from app.telemetry.metrics import Registry


def cells(metrics: FerryMetrics, name: str) -> dict[tuple[str, ...], Any]:
    (metric,) = (metric for metric in metrics.registry.metrics() if metric.name == f"/ferry/{name}")
    assert metric.text
    return dict(metric.cells())


@given(st.lists(st.sampled_from(["begin", "end", "read"])))
def test_in_flight_is_what_has_begun_and_not_ended(steps: list[str]) -> None:
    traffic, expected = Traffic(), 0
    for step in steps:
        if step == "begin":
            traffic.begin()
            expected += 1
        elif step == "end" and expected:
            traffic.end(1, 1)
            expected -= 1
        assert traffic.in_flight() == expected


def test_traffic_from_many_threads_is_counted_exactly() -> None:
    traffic = Traffic()

    def work() -> None:
        for _ in range(5000):
            traffic.begin()
            traffic.end(10, 20)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert 0 <= traffic.in_flight() <= 40_000
    assert traffic.in_flight() == 0
    requests, responses = traffic.sizes()
    assert (sum(requests.counts), requests.sum, responses.sum) == (40_000, 400_000, 800_000)


@pytest.mark.parametrize(
    ("size", "bucket"), [(0, 0), (64, 0), (65, 1), (64 * 4**11, 11), (64 * 4**11 + 1, 12)]
)
def test_a_size_lies_in_the_bucket_that_it_equals(size: int, bucket: int) -> None:
    traffic = Traffic()
    traffic.end(size, 0)
    requests, _ = traffic.sizes()
    assert requests.counts.index(1) == bucket


def test_sizes_show_what_was_asked_and_in_flight_everything() -> None:
    metrics = FerryMetrics.make()
    metrics.traffic("predict", "REST").begin()
    metrics.traffic("Predict", "GRPC").end(5, 7)
    assert metrics.traffic("predict", "REST") is metrics.traffic("predict", "REST")
    metrics.traffic("Predict", "GRPC").begin()
    assert cells(metrics, "requests_in_flight") == {("predict", "REST"): 1, ("Predict", "GRPC"): 0}
    assert [(key, found.sum) for key, found in cells(metrics, "request_bytes").items()] == [
        (("Predict", "GRPC"), 5)
    ]
    assert [(key, found.sum) for key, found in cells(metrics, "response_bytes").items()] == [
        (("Predict", "GRPC"), 7)
    ]


def test_stages_are_told_apart_in_seconds() -> None:
    metrics = FerryMetrics.make()
    metrics.stages.observe((10_000, 10_001, 20_000_000_000), "m", "predict", "REST")
    metrics.stages.observe((20_000, 0, 0), "m", "predict", "REST")
    found: dict[tuple[str, ...], Distribution] = cells(metrics, "request_stage_seconds")
    assert [labels[3] for labels in found] == ["decode", "run", "encode"]
    decode, run, encode = found.values()
    assert decode.sum == pytest.approx(3e-5)
    assert (decode.bounds[0], decode.counts[:2]) == (1e-5, (1, 1))
    assert run.counts[:2] == (1, 1)
    assert (encode.counts[0], encode.counts[-1]) == (1, 1)


def test_a_clock_splits_a_request_at_its_run() -> None:
    histogram = Registry().histogram("/runs", (10.0,), "model", "api", "runtime")
    clock = RunClock(histogram, "m")
    start = time.perf_counter_ns()
    assert clock.stages(start, start + 5) == ()
    clock("Predict", 3)
    end = time.perf_counter_ns()
    decode, run, encode = clock.stages(start, end)
    assert run == 3000
    assert min(decode, encode) >= 0
    assert encode <= end - start
    ((labels, distribution),) = histogram.cells()
    assert labels == ("m", "Predict", "TF1")
    assert isinstance(distribution, Distribution)
    assert distribution.sum == 3


def test_build_info_stands_in_labels() -> None:
    metrics = FerryMetrics.make()
    metrics.add_build_info({"version": "1", "python": "3"})
    assert cells(metrics, "build_info") == {("1", "3"): 1}
