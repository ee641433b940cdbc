"""TensorFlow Serving's metrics: names, labels and buckets as it has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.telemetry.ferry_metrics import FerryMetrics, RunClock
from app.telemetry.instruments import Counter, Gauge, Histogram
from app.telemetry.metrics import Registry, exponential

ObserveRun = Callable[[str, int], None]

_LATENCY = exponential(10, 1.8, 33)  # microseconds
_SESSION = "/tensorflow/serving/batching_session/"
_CORE = "/tensorflow/core/"


@dataclass(frozen=True)
class TensorFlowMetrics:
    """TensorFlow's own metrics, filled from our measures: its registry cannot be read from Python.

    Attributes:
        load_attempts: by version directory and `success` or `fail`.
        load_micros: of successful loads, by version directory.
        load_stage_micros: by version directory and `restore_graph` or `init_graph`.
        graph_builds: how often a graph was prepared for some inputs and outputs.
        graph_build_micros: the time that this took.
        run_micros: of each session run.
        session_created: has a cell once there was a session.
    """

    load_attempts: Counter
    load_micros: Counter
    load_stage_micros: Histogram
    graph_builds: Counter
    graph_build_micros: Counter
    run_micros: Histogram
    session_created: Gauge

    @staticmethod
    def make(registry: Registry) -> TensorFlowMetrics:
        """The instruments, new in `registry`."""
        saved_model = "/tensorflow/cc/saved_model/"
        stages = exponential(10, 1.8, 37)
        runs = registry.histogram(_CORE + "graph_run_time_usecs_histogram", exponential(1000, 2, 20))
        # One observation gives all of these: a run is counted in the way of a request.
        for name in ("graph_runs", "direct_session_runs"):
            registry.derived(_CORE + name, runs, lambda found: sum(found.counts))
        registry.derived(_CORE + "graph_run_time_usecs", runs, lambda found: int(found.sum))
        # What we cannot know is listed all the same, without a value: dashboards ask for it by name.
        registry.counter(_CORE + "function_graph_optimization_time_usecs")
        registry.histogram(_CORE + "graph_pending_queue_length_histogram", exponential(1, 1.5, 30))
        for name in ("graph_run_input_tensor_bytes", "graph_run_output_tensor_bytes"):
            registry.histogram(_CORE + name, exponential(1, 4, 14))
        return TensorFlowMetrics(
            load_attempts=registry.counter(saved_model + "load_attempt_count", "model_path", "status"),
            load_micros=registry.counter(saved_model + "load_latency", "model_path"),
            load_stage_micros=registry.histogram(
                saved_model + "load_latency_by_stage", stages, "model_path", "stage"
            ),
            graph_builds=registry.counter(_CORE + "graph_build_calls"),
            graph_build_micros=registry.counter(_CORE + "graph_build_time_usecs"),
            run_micros=runs,
            session_created=registry.gauge(_CORE + "session_created"),
        )


@dataclass(frozen=True)
class BatchingMetrics:
    """What the batcher does.

    Attributes:
        input_batch_size: rows of each tensor that asks to be batched.
        processed_batch_size: rows of each batch, padding included.
        padding_size: rows of padding of each batch, by the size of the batch.
        queuing_micros: of each request, by thread pool (always empty).
        wrapped_runs: batches that were run.
    """

    input_batch_size: Histogram
    processed_batch_size: Histogram
    padding_size: Histogram
    queuing_micros: Histogram
    wrapped_runs: Counter

    @staticmethod
    def make(registry: Registry) -> BatchingMetrics:
        """The instruments, new in `registry`."""
        sizes = exponential(1, 2, 14)
        return BatchingMetrics(
            input_batch_size=registry.histogram(_SESSION + "input_batch_size", sizes, lazy=True),
            processed_batch_size=registry.histogram(_SESSION + "processed_batch_size", sizes, lazy=True),
            padding_size=registry.histogram(
                _SESSION + "padding_size", sizes, "execution_batch_size", lazy=True
            ),
            queuing_micros=registry.histogram(
                _SESSION + "queuing_latency", exponential(100, 1.2, 52), "thread_pool_name"
            ),
            wrapped_runs=registry.counter(_SESSION + "wrapped_run_count"),
        )


@dataclass(frozen=True)
class ServingMetrics:
    """Every instrument that parts of the server fill.

    Attributes:
        registry: holds them all, for exporters.
        request_count: by model and name of the status code.
        request_micros: of successful requests, by model, API and entrypoint.
        request_log_count: of requests that were to be recorded, by model and name of the status code.
        runtime_micros: of successful runs, by model, API and runtime.
        example_counts: examples of each MultiInference request, by model.
        example_total: their sum, by model.
        warmup_micros: of each warm-up file, by version directory and status text.
        warmup_records: read, by version directory and status text.
        batching: what the batcher does.
        tensorflow: loads and session runs.
        ferry: what TensorFlow Serving does not count, in a registry of its own.
    """

    registry: Registry
    request_count: Counter
    request_micros: Histogram
    request_log_count: Counter
    runtime_micros: Histogram
    example_counts: Histogram
    example_total: Counter
    warmup_micros: Histogram
    warmup_records: Counter
    batching: BatchingMetrics
    tensorflow: TensorFlowMetrics
    ferry: FerryMetrics

    @staticmethod
    def make() -> ServingMetrics:
        """The instruments, in a registry of their own."""
        registry = Registry()
        serving = "/tensorflow/serving/"
        registry.gauge(serving + "mlmd_map", "model_name", "version")
        return ServingMetrics(
            registry=registry,
            request_count=registry.counter(serving + "request_count", "model_name", "status"),
            request_micros=registry.histogram(
                serving + "request_latency", _LATENCY, "model_name", "API", "entrypoint"
            ),
            request_log_count=registry.counter(serving + "request_log_count", "model_name", "status_code"),
            runtime_micros=registry.histogram(
                serving + "runtime_latency", _LATENCY, "model_name", "API", "runtime"
            ),
            example_counts=registry.histogram(
                serving + "request_example_counts", exponential(1, 2, 15), "model"
            ),
            example_total=registry.counter(serving + "request_example_count_total", "model"),
            warmup_micros=registry.histogram(
                serving + "model_warmup_latency", _LATENCY, "model_path", "status"
            ),
            warmup_records=registry.counter(serving + "model_warmup_records_read", "model_path", "status"),
            batching=BatchingMetrics.make(registry),
            tensorflow=TensorFlowMetrics.make(registry),
            ferry=FerryMetrics.make(),
        )

    def observe_run(self, model: str) -> RunClock:
        """What is told, by api.predict and its like, the API and microseconds of a successful run."""
        return RunClock(self.runtime_micros, model)

    def observe_examples(self, model: str, count: int) -> None:
        """Count the examples of a MultiInference request."""
        self.example_counts.observe(count, model)
        self.example_total.increment(model, by=count)


def micros(start: int, end: int) -> int:
    """Whole microseconds between two readings of `time.perf_counter_ns`."""
    return (end - start) // 1000
