"""What batching does to throughput and latency, as ratios to the same model without it in the same run.

32 clients, threads of this process, ask the image classifier for one picture each, again and again.
Every answer is checked. Both ways take turns. Absolute figures of a shared machine mean little, and where
others use it too, the CPU time of a request says more than the rate.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402

from app.config.batching import BatchingParameters  # noqa: E402
from app.cpus import usable_cpus  # noqa: E402
from app.engine import savedmodel  # noqa: E402
from app.engine.batching.batcher import AdaptiveBatcher, ConfiguredBatcher  # noqa: E402
from app.engine.model import Model  # noqa: E402
from app.engine.session_config import session_config  # noqa: E402
from app.options import Options  # noqa: E402
from app.telemetry.metrics import Distribution, Registry  # noqa: E402
from app.telemetry.serving_metrics import BatchingMetrics  # noqa: E402

IMAGE_CLASSIFIER = REPOSITORY / "models-sample" / "image_classifier"
CLIENTS = 32
REQUESTS = 8  # of each client, a round
ROUNDS = 4

Figures = tuple[float, float, float]
MAX_BATCH_SIZE = 16  # larger ones outgrow the caches of common CPUs


def main() -> None:
    """Run both ways in turn and print a table."""
    path = str(next(IMAGE_CLASSIFIER.iterdir()))
    plain = savedmodel.load(path, ["serve"], session_config(Options()))
    metrics = BatchingMetrics.make(Registry())
    parameters = BatchingParameters(max_batch_size=MAX_BATCH_SIZE)
    batcher = ConfiguredBatcher(parameters, metrics, per_model=False)
    batcher.start()
    adaptive = AdaptiveBatcher(0, BatchingMetrics.make(Registry())).wrap(plain, path)
    ways = {"unbatched": plain, "batched": batcher.wrap(plain, path), "adaptive": adaptive}
    chance = np.random.default_rng(7)
    pictures = chance.random((CLIENTS, *picture_shape(plain)), np.float32)
    expected = [answer(plain, picture[None]) for picture in pictures]
    figures: dict[str, list[Figures]] = {name: [] for name in ways}
    for round_ in range(ROUNDS + 1):
        for name, model in ways.items():
            found = load(model, pictures, expected)
            if round_:  # the first round warms up
                figures[name].append(found)
    batcher.stop()
    print(
        f"{IMAGE_CLASSIFIER.name}, signature `array`, {CLIENTS} clients, {usable_cpus()} CPUs, "
        f"median of {ROUNDS} rounds; mean batch {mean_batch(metrics):.1f} rows"
    )
    for name, values in figures.items():
        columns = zip(("requests/s", "ms p99", "ms CPU"), zip(*values, strict=True), strict=True)
        bases = zip(*figures["unbatched"], strict=True)
        cells = [
            f"{statistics.median(column):9.1f} {unit} {ratio(column, base):5.2f} x"
            for (unit, column), base in zip(columns, bases, strict=True)
        ]
        print(f"  {name:12}{''.join(cells)}")


def picture_shape(model: Model) -> tuple[int, ...]:
    """The shape of one picture."""
    (spec,) = model.signatures["array"].inputs.values()
    assert spec.shape is not None
    return spec.shape[1:]


def answer(model: Model, pictures: np.ndarray) -> list[np.ndarray]:
    """All outputs of the signature for some pictures."""
    signature = model.signatures["array"]
    (alias,) = signature.inputs
    return list(model.run(signature, {alias: pictures}).values())


def load(model: Model, pictures: np.ndarray, expected: list[list[np.ndarray]]) -> Figures:
    """Requests a second; the 99th percentile of the latency, and the CPU time of a request, in ms."""
    latencies: list[float] = []
    wrong: list[int] = []
    ready = threading.Barrier(CLIENTS + 1)

    def client(number: int) -> None:
        ready.wait()
        for _ in range(REQUESTS):
            started = time.perf_counter()
            found = answer(model, pictures[number : number + 1])
            latencies.append((time.perf_counter() - started) * 1e3)
            for value, other in zip(found, expected[number], strict=True):
                if value.dtype.kind == "f" and not np.allclose(value, other, atol=1e-4):
                    wrong.append(number)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    started, used = time.perf_counter(), time.process_time()
    ready.wait()
    for thread in threads:
        thread.join()
    if wrong or len(latencies) != CLIENTS * REQUESTS:
        raise AssertionError(f"wrong answers for clients {sorted(set(wrong))}")
    rate = len(latencies) / (time.perf_counter() - started)
    cpu = (time.process_time() - used) / len(latencies) * 1e3
    return rate, statistics.quantiles(latencies, n=100)[98], cpu


def mean_batch(metrics: BatchingMetrics) -> float:
    """Rows of a batch, padding included."""
    ((_, found),) = metrics.processed_batch_size.cells()
    assert isinstance(found, Distribution)
    return found.sum / sum(found.counts)


def ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """The median of the ratios, round by round."""
    return statistics.median(value / other for value, other in zip(values, base, strict=True))


if __name__ == "__main__":
    main()
