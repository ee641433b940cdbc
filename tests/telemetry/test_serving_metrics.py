from __future__ import annotations

import pytest

from app.telemetry.instruments import Distribution, Histogram
from app.telemetry.prometheus import page
from app.telemetry.serving_metrics import ServingMetrics, micros

SERVING = """
# TYPE :tensorflow:serving:batching_session:queuing_latency histogram
# TYPE :tensorflow:serving:batching_session:wrapped_run_count counter
# TYPE :tensorflow:serving:mlmd_map gauge
# TYPE :tensorflow:serving:model_warmup_latency histogram
# TYPE :tensorflow:serving:model_warmup_records_read counter
# TYPE :tensorflow:serving:request_count counter
# TYPE :tensorflow:serving:request_example_count_total counter
# TYPE :tensorflow:serving:request_example_counts histogram
# TYPE :tensorflow:serving:request_latency histogram
# TYPE :tensorflow:serving:request_log_count counter
# TYPE :tensorflow:serving:runtime_latency histogram
""".strip().splitlines()
LATENCY_BOUNDS = (
    "10 18 32.4 58.32 104.976 188.957 340.122 612.22 1102 1983.59 3570.47 6426.84 11568.3 20823 37481.3 "
    "67466.4 121440 218591 393464 708235 1.27482e+06 2.29468e+06 4.13043e+06 7.43477e+06 1.33826e+07 "
    "2.40887e+07 4.33596e+07 7.80473e+07 1.40485e+08 2.52873e+08 4.55172e+08 8.19309e+08 1.47476e+09"
)


def printed(histogram: Histogram) -> str:
    return " ".join(f"{bound:g}" for bound in histogram.bounds)


def test_what_is_listed_before_anything_was_counted() -> None:
    lines = page(ServingMetrics.make().registry).decode().splitlines()
    assert [line for line in lines if ":serving:" in line] == SERVING
    assert all(line.startswith("# TYPE ") for line in lines)


@pytest.mark.parametrize("name", ["request_micros", "runtime_micros", "warmup_micros"])
def test_latencies_have_the_buckets_of_tensorflow_serving(name: str) -> None:
    assert printed(getattr(ServingMetrics.make(), name)) == LATENCY_BOUNDS


def test_other_buckets() -> None:
    metrics = ServingMetrics.make()
    assert printed(metrics.example_counts).startswith("1 2 4 8 16 ")
    assert printed(metrics.example_counts).endswith(" 8192 16384")
    for sizes in ("input_batch_size", "processed_batch_size", "padding_size"):
        histogram = getattr(metrics.batching, sizes)
        assert histogram.lazy
        assert histogram.bounds == tuple(2**power for power in range(14))
    assert len(metrics.batching.queuing_micros.bounds) == 52
    assert printed(metrics.batching.queuing_micros).startswith("100 120 144 172.8 ")
    assert printed(metrics.tensorflow.run_micros).endswith(" 2.62144e+08 5.24288e+08")


def test_a_run_is_observed_with_its_model_and_api() -> None:
    metrics = ServingMetrics.make()
    observe = metrics.observe_run("m")
    observe("Predict", 20)
    observe("Classify", 30)
    assert [labels for labels, _ in metrics.runtime_micros.cells()] == [
        ("m", "Classify", "TF1"),
        ("m", "Predict", "TF1"),
    ]


def test_examples_are_counted_twice_over() -> None:
    metrics = ServingMetrics.make()
    metrics.observe_examples("m", 3)
    metrics.observe_examples("m", 5)
    assert metrics.example_total.cells() == [(("m",), 8)]
    ((labels, found),) = metrics.example_counts.cells()
    assert isinstance(found, Distribution)
    assert (labels, sum(found.counts), found.sum) == (("m",), 2, 8)


def test_one_observation_of_a_session_run_feeds_four_metrics() -> None:
    metrics = ServingMetrics.make()
    metrics.tensorflow.run_micros.observe(1500)
    metrics.tensorflow.run_micros.observe(20)
    lines = page(metrics.registry).decode().splitlines()
    for line in (
        "graph_runs{} 2",
        "direct_session_runs{} 2",
        "graph_run_time_usecs{} 1520",
        "graph_run_time_usecs_histogram_count{} 2",
    ):
        assert f":tensorflow:core:{line}" in lines


def test_microseconds_are_whole() -> None:
    assert micros(1_000, 3_999) == 2
