"""What batching does to throughput and latency: adaptive, by hand, and not at all, in one run.

For each sample model and number of clients (threads of this process, each asking again and again) the ways
take turns. "By hand" is the parameter file that is best for that very load, more than anybody can tune for.
Chosen with hindsight it would be the luckiest of many noisy runs, and the comparison would favour it. So the
first half of the rounds chooses it (sizes and threads first, then whether the best of them should wait for
company), and only the second half, in which it, adaptive batching and no batching take turns, is compared.
Adaptive batching has had some seconds of that load to learn from.

Each ratio is the median of the rounds' ratios, with the lowest and the highest. Every answer is checked.
Lines are merged into bench/batching.md, so that a run may be of one model and one load.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
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
from app.engine.optimise import Optimisation  # noqa: E402
from app.engine.session_config import session_config  # noqa: E402
from app.options import Options  # noqa: E402
from app.telemetry.instruments import Distribution  # noqa: E402
from app.telemetry.metrics import Registry  # noqa: E402
from app.telemetry.serving_metrics import BatchingMetrics  # noqa: E402
from bench.batching_report import HEADER, Line, Ratio, merge_into  # noqa: E402

SAMPLES = REPOSITORY / "models-sample"
REPORT = REPOSITORY / "bench" / "batching.md"
CLIENTS = (1, 8, 32, 128)
MANY_CLIENTS = 32  # with more, rounds take twice as long
ROUNDS = 4
FINALISTS = 2
RAMP_SECONDS = 0.3
LEARNING_WINDOWS = 5  # for adaptive batching, before the comparison
SIZES = (4, 8, 16, 32, 64)
TIMEOUT = 2000  # us, beside none
THREADS = tuple(dict.fromkeys((1, usable_cpus())))
ENOUGH_TIME = 100  # for the work on a model at its load

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


def word_ids(chance: np.random.Generator) -> Inputs:
    """One text of 128 words, as numbers."""
    return {
        "input_word_ids": chance.integers(0, 30000, (1, 128), np.int32),
        "input_mask": np.ones((1, 128), np.int32),
    }


@dataclass(frozen=True)
class Sample:
    """A model to measure: what is called, with what, and for how many seconds a round."""

    signature: str
    make: Callable[[np.random.Generator], Inputs]
    seconds: float
    fast: bool = False


MODELS = {
    "half_plus_two": Sample("serving_default", number, 0.6),
    "text_classifier": Sample("serving_default", text, 0.6),
    "image_classifier": Sample("array", picture, 2.0),
    "bert_small": Sample("serving_default", word_ids, 2.0),
    "image_classifier, optimised": Sample("array", picture, 2.0, fast=True),
}


@dataclass(frozen=True)
class Figures:
    """Requests a second, and the 99th percentile of the latency in seconds."""

    rate: float
    p99: float


@dataclass(frozen=True, eq=False)
class Way:
    """A model by one way of batching, and what is counted of its batches."""

    name: str
    model: Model
    metrics: BatchingMetrics
    parameters: BatchingParameters = field(default_factory=BatchingParameters)
    stop: Callable[[], None] = lambda: None

    def sizes(self) -> dict[int, int]:
        """How many batches there were of at least 1, 2, 4 ... rows, and less than twice as many."""
        sizes: Counter[int] = Counter()
        for _, found in self.metrics.processed_batch_size.cells():
            assert isinstance(found, Distribution)
            sizes.update({1 << bucket >> 1: count for bucket, count in enumerate(found.counts) if count})
        return dict(sizes)

    def batches(self) -> tuple[float, int]:
        """Rows and batches so far."""
        rows, count = 0.0, 0
        for _, found in self.metrics.processed_batch_size.cells():
            assert isinstance(found, Distribution)
            rows, count = rows + found.sum, count + sum(found.counts)
        return rows, count


def main() -> None:
    """Measure what is asked for; print each line and merge it into the report."""
    parser = argparse.ArgumentParser(description="Batching: adaptive, by hand, not at all.")
    parser.add_argument("--model", choices=MODELS, nargs="*", default=list(MODELS), help="all if left out")
    parser.add_argument("--clients", type=int, nargs="*", default=CLIENTS)
    parser.add_argument("--dry", action="store_true", help="leave bench/batching.md as it is")
    arguments = parser.parse_args()
    for name in arguments.model:
        for clients in arguments.clients:
            line = compare(name, clients)
            print(line.text, flush=True)
            if not arguments.dry:
                merge_into(REPORT, HEADER, [line.text], list(MODELS))


def compare(name: str, clients: int) -> Line:
    """Measure one model under one load."""
    sample = MODELS[name]
    (version,) = (SAMPLES / name.partition(",")[0]).iterdir()
    optimisation = Optimisation(load_factor=ENOUGH_TIME) if sample.fast else None
    plain = savedmodel.load(str(version), ["serve"], session_config(Options()), optimisation=optimisation)
    chance = np.random.default_rng(7)
    requests = [sample.make(chance) for _ in range(clients)]
    expected = [run(plain, sample.signature, inputs) for inputs in requests]

    seconds = sample.seconds * (2 if clients > MANY_CLIENTS else 1)

    def measure(way: Way, seconds: float) -> Figures:
        return load(way.model, sample.signature, requests, expected, seconds)

    by_hand = _best_by_hand(plain, clients, lambda way: measure(way, seconds / 2))
    metrics = BatchingMetrics.make(Registry())
    adaptive = Way("adaptive", AdaptiveBatcher(0, metrics).wrap(plain, ""), metrics)
    ways = [adaptive, by_hand, Way("unbatched", plain, BatchingMetrics.make(Registry()))]
    measure(adaptive, sample.seconds * LEARNING_WINDOWS)
    figures: dict[str, list[Figures]] = {way.name: [] for way in ways}
    rows, batches = adaptive.batches()
    for turn in range(ROUNDS):
        for way in ways[turn % 3 :] + ways[: turn % 3]:
            figures[way.name].append(measure(way, seconds))
    more_rows, more_batches = adaptive.batches()
    by_hand.stop()
    plain.close()
    print(f"{name}, {clients} clients, adaptive batches by least rows: {adaptive.sizes()}")
    for way, values in figures.items():
        rates = ", ".join(f"{value.rate:.1f}" for value in values)
        tails = ", ".join(f"{value.p99 * 1e3:.2f}" for value in values)
        print(f"  {way}: {rates} a second; p99 {tails} ms", flush=True)
    return Line(
        name,
        clients,
        by_hand.name,
        *(
            Ratio.of([getattr(value, what) for value in values], [getattr(value, what) for value in others])
            for values, others, what in itertools.product(
                [figures["adaptive"]], [figures[by_hand.name], figures["unbatched"]], ["rate", "p99"]
            )
        ),
        rows_a_batch=(more_rows - rows) / max(1, more_batches - batches),
    )


def _sizes(clients: int) -> list[int]:
    """The values of `max_batch_size` to try: those that so many clients can fill, and one more."""
    return [size for index, size in enumerate(SIZES) if index == 0 or SIZES[index - 1] < clients]


def _best_by_hand(plain: Model, clients: int, measure: Callable[[Way], Figures]) -> Way:
    """The file of the highest rate."""
    ways = [
        _by_hand(plain, size, 0, threads) for size, threads in itertools.product(_sizes(clients), THREADS)
    ]
    first = {way: measure(way).rate for way in ways}
    ways.sort(key=lambda way: first[way], reverse=True)
    file = ways[0].parameters
    waiting = _by_hand(plain, file.max_batch_size, TIMEOUT, file.num_batch_threads)
    finalists = [*ways[:FINALISTS], waiting]
    first[waiting] = measure(waiting).rate
    both = {way: first[way] + measure(way).rate for way in finalists}
    best = max(finalists, key=lambda way: both[way])
    for way in (*ways, waiting):
        if way is not best:
            way.stop()
    return best


def _by_hand(plain: Model, size: int, timeout: int, threads: int) -> Way:
    """`plain` with TensorFlow Serving's batching by such parameters; its threads run."""
    parameters = BatchingParameters(
        max_batch_size=size,
        batch_timeout_micros=timeout,
        num_batch_threads=threads,
        max_enqueued_batches=1000,
    )
    metrics = BatchingMetrics.make(Registry())
    batcher = ConfiguredBatcher(parameters, metrics, per_model=False)
    batcher.start()
    wait = f", {timeout / 1000:g} ms" if timeout else ""
    name = f"{size} rows{wait}, {threads} thread{'s' if threads > 1 else ''}"
    return Way(name, batcher.wrap(plain, ""), metrics, parameters, batcher.stop)


def run(model: Model, signature: str, inputs: Inputs) -> list[Array]:
    """All outputs of the signature."""
    return list(model.run(model.signatures[signature], inputs).values())


def load(
    model: Model, signature: str, requests: list[Inputs], expected: list[list[Array]], seconds: float
) -> Figures:
    """Let a client for each of `requests` send it again and again, and look at `seconds` of that.

    A request counts for the share of its time that lies within them: whole requests, which end in batches,
    would make the rate jump.
    """
    stop = threading.Event()
    seen: list[list[tuple[float, float, list[Array]]]] = [[] for _ in requests]

    def client(number: int) -> None:
        while not stop.is_set():
            started = time.perf_counter()
            found = run(model, signature, requests[number])
            seen[number].append((started, time.perf_counter(), found))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(len(requests))]
    gc.collect()
    gc.disable()  # what is kept to be checked is no load of a server
    for thread in threads:
        thread.start()
    time.sleep(RAMP_SECONDS)
    begin = time.perf_counter()
    time.sleep(seconds)
    end = time.perf_counter()
    stop.set()
    for thread in threads:
        thread.join()
    gc.enable()
    if failed := [number for number, answers in enumerate(seen) if not answers]:
        raise AssertionError(f"no answer for clients {failed}")
    for answers, right in zip(seen, expected, strict=True):
        for *_, found in answers:
            check(found, right)
    times = [(started, ended) for answers in seen for started, ended, _ in answers]
    shares = [max(0.0, min(ended, end) - max(started, begin)) / (ended - started) for started, ended in times]
    latencies = [ended - started for started, ended in times if begin <= ended] or [end - begin]
    return Figures(sum(shares) / (end - begin), float(np.percentile(latencies, 99)))


def check(found: list[Array], right: list[Array]) -> None:
    """Compare an answer with that of the model alone; batches may round otherwise."""
    for value, other in zip(found, right, strict=True):
        same = np.array_equal(value, other)
        if not same and (value.dtype.kind != "f" or not np.allclose(value, other, atol=1e-3)):
            raise AssertionError(f"wrong answer: {value} instead of {other}")


if __name__ == "__main__":
    main()
