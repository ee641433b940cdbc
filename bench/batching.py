"""What batching does to throughput and latency: adaptive, by hand, and not at all, in one run.

For each sample model and number of clients (threads of this process, each asking again and again), the
ways take turns. "By hand" stands for the best of a grid of parameters for that very load, chosen
afterwards: more than anybody can tune for. Every answer is checked. Absolute figures of a shared machine
mean little; where others use it too, the CPU time of a request says more than the rate.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402

from app.config.batching import BatchingParameters  # noqa: E402
from app.cpus import usable_cpus  # noqa: E402
from app.engine import savedmodel  # noqa: E402
from app.engine.batching.batcher import AdaptiveBatcher, ConfiguredBatcher  # noqa: E402
from app.engine.dtypes import Array  # noqa: E402
from app.engine.model import Model  # noqa: E402
from app.engine.session_config import session_config  # noqa: E402
from app.options import Options  # noqa: E402
from app.telemetry.metrics import Registry  # noqa: E402
from app.telemetry.serving_metrics import BatchingMetrics  # noqa: E402

SAMPLES = REPOSITORY / "models-sample"
CLIENTS = (1, 8, 32, 128)
ROUNDS = 3
SECONDS = 1.0
WARM_SECONDS = 2.0  # for adaptive batching to learn, and for TensorFlow to see every batch size
SIZES = (8, 16, 32)
TIMEOUTS = (0, 2000)
THREADS = (1, usable_cpus())

Inputs = dict[str, Array]


def picture(chance: np.random.Generator) -> Inputs:
    """One picture for the image model's `array`."""
    return {"image": chance.random((1, 224, 224, 3), np.float32)}


def number(chance: np.random.Generator) -> Inputs:
    """One number."""
    return {"x": chance.random(1, np.float32)}


def text(chance: np.random.Generator) -> Inputs:
    """One short text."""
    words = chance.choice(["good", "bad", "the", "film", "was", "never", "boring"], 12)
    return {"text": np.array([" ".join(words).encode()], object)}


MODELS: dict[str, tuple[str, Callable[[np.random.Generator], Inputs]]] = {
    "half_plus_two": ("serving_default", number),
    "text_classifier": ("serving_default", text),
    "image_classifier": ("array", picture),
}


@dataclass(frozen=True)
class Figures:
    """Requests a second, the 99th percentile of the latency in ms, CPU time of a request in ms."""

    rate: float
    p99: float
    cpu: float


def main() -> None:
    """Measure and print a table for each model."""
    parser = argparse.ArgumentParser(description="Batching: adaptive, by hand, not at all.")
    parser.add_argument("models", nargs="*", help=f"of {', '.join(MODELS)}; all if left out")
    parser.add_argument("--clients", type=int, nargs="*", default=CLIENTS)
    arguments = parser.parse_args()
    for name in arguments.models or MODELS:
        compare(name, arguments.clients)


def compare(name: str, client_counts: tuple[int, ...]) -> None:
    """Print what each way does for one model at each number of clients."""
    signature, make = MODELS[name]
    plain = savedmodel.load(str(next((SAMPLES / name).iterdir())), ["serve"], session_config(Options()))
    metrics = BatchingMetrics.make(Registry())
    batchers = {
        f"size {size}, timeout {timeout} us, {threads} threads": ConfiguredBatcher(
            BatchingParameters(
                max_batch_size=size,
                batch_timeout_micros=timeout,
                num_batch_threads=threads,
                max_enqueued_batches=1000,
            ),
            metrics,
            per_model=False,
        )
        for size, timeout, threads in itertools.product(SIZES, TIMEOUTS, dict.fromkeys(THREADS))
    }
    for batcher in batchers.values():
        batcher.start()
    by_hand = {way: batcher.wrap(plain, "") for way, batcher in batchers.items()}
    chance = np.random.default_rng(7)
    requests = [make(chance) for _ in range(max(client_counts))]
    expected = [run(plain, signature, inputs) for inputs in requests]
    print(f"{name}, {usable_cpus()} CPUs, median of {ROUNDS} rounds of {SECONDS:g} s")
    for clients in client_counts:
        adaptive = AdaptiveBatcher(0, metrics).wrap(plain, "")
        ways: dict[str, Model] = {"unbatched": plain, "adaptive": adaptive, **by_hand}
        figures: dict[str, list[Figures]] = {way: [] for way in ways}
        for model in ways.values():
            load(model, signature, requests[:clients], expected, WARM_SECONDS if model is adaptive else 0.3)
        for _ in range(ROUNDS):
            for way, model in ways.items():
                figures[way].append(load(model, signature, requests[:clients], expected, SECONDS))
        report(clients, figures)
    for batcher in batchers.values():
        batcher.stop()


def run(model: Model, signature: str, inputs: Inputs) -> list[Array]:
    """All outputs of the signature."""
    return list(model.run(model.signatures[signature], inputs).values())


def load(
    model: Model, signature: str, requests: list[Inputs], expected: list[list[Array]], seconds: float
) -> Figures:
    """Let a client for each of `requests` send it for `seconds`, and check every answer."""
    latencies: list[float] = []
    wrong: list[int] = []
    end = time.perf_counter() + seconds
    used = time.process_time()

    def client(number: int) -> None:
        while (started := time.perf_counter()) < end:
            found = run(model, signature, requests[number])
            latencies.append(time.perf_counter() - started)
            for value, other in zip(found, expected[number], strict=True):
                if value.dtype.kind == "f" and not np.allclose(value, other, atol=1e-3):
                    wrong.append(number)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(len(requests))]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise AssertionError(f"wrong answers for clients {sorted(set(wrong))}")
    rate = len(latencies) / (time.perf_counter() - started)
    cpu = (time.process_time() - used) / len(latencies) * 1e3
    return Figures(rate, float(np.percentile(latencies, 99)) * 1e3, cpu)


def report(clients: int, figures: dict[str, list[Figures]]) -> None:
    """Print the unbatched and adaptive ways and the best by hand, and adaptive's ratios to both."""
    medians = {
        way: Figures(
            statistics.median(found.rate for found in values),
            statistics.median(found.p99 for found in values),
            statistics.median(found.cpu for found in values),
        )
        for way, values in figures.items()
    }
    best = max(
        (way for way in medians if way not in ("unbatched", "adaptive")), key=lambda w: medians[w].rate
    )
    adaptive = medians["adaptive"]
    print(f"  {clients} clients")
    for way in ("unbatched", best, "adaptive"):
        found = medians[way]
        print(
            f"    {way:38}{found.rate:10.1f}/s {found.p99:9.2f} ms p99 {found.cpu:8.3f} ms CPU"
            f"   adaptive: {adaptive.rate / found.rate:5.2f} x rate, {adaptive.p99 / found.p99:5.2f} x p99"
        )


if __name__ == "__main__":
    main()
