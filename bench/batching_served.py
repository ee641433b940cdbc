"""Adaptive batching beside parameter files and none, in complete servers: what a gRPC client sees.

bench/batching.py calls the model from threads, which the interpreter makes wait for each other. Here the
servers are processes, and h2load sends the requests: so many at a time, each answered before the next. For
each load the ways take turns. The first rounds choose the parameter file that is best for that very load, the
others, in which it takes part with adaptive batching and no batching, are compared.

`bench/batching_served.py [MODEL ...]` merges a line for each load into bench/batching_served.md.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import grpc  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow_serving.apis import predict_pb2  # noqa: E402

from bench.batching import MODELS  # noqa: E402
from bench.batching_report import Ratio, merge_into  # noqa: E402
from tests.support.process import ServerProcess  # noqa: E402

SAMPLES = REPOSITORY / "models-sample"
REPORT = REPOSITORY / "bench" / "batching_served.md"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
NAMES = ("half_plus_two", "text_classifier", "image_classifier", "bert_small")
CLIENTS = (1, 8, 32, 128)
CONNECTIONS = 8
SECONDS = 2.0
LEARNING_SECONDS = 8.0
CHOOSING_ROUNDS, ROUNDS = 2, 4
# Rows, microseconds to wait for more, threads.
FILES = ((4, 0, 2), (8, 0, 2), (16, 0, 2), (32, 0, 2), (32, 0, 1), (8, 2000, 2), (32, 2000, 1))
HEADERS = ("-Hcontent-type: application/grpc", "-Hte: trailers")
# They start together, and all have to make the model fast, or none.
ENOUGH_TIME = "--model_optimization_load_factor=100"
NONE, ADAPTIVE = "none", "adaptive"


@dataclass(frozen=True)
class Figures:
    """Requests a second, and the 99th percentile of the latency in milliseconds."""

    rate: float
    p99: float


@dataclass(frozen=True)
class Request:
    """What is sent again and again: a file with one gRPC message, and how many bytes its answer has."""

    body: Path
    answer_bytes: int


def main() -> None:
    """Measure the models that are named, or all."""
    names = sys.argv[1:] or NAMES
    subprocess.run([sys.executable, SAMPLES / "build.py", *names], check=True)
    print(HEAD, end="", flush=True)
    for name in names:
        with tempfile.TemporaryDirectory() as directory:
            for clients, cells in compare(name, Path(directory)):
                line = f"| {name} | {clients} | {cells} |"
                print(line, flush=True)
                merge_into(REPORT, HEAD, [line], NAMES)


def compare(name: str, directory: Path) -> Iterator[tuple[int, str]]:
    """A line of the table for each number of clients."""
    with ExitStack() as stack:
        servers: dict[str, ServerProcess] = {}
        for way, flags in ways(directory).items():
            log = directory / f"{len(servers)}.log"
            # As many threads as clients: fewer would keep large batches from being filled.
            own = ["--grpc_transport=http2", f"--grpc_max_threads={max(CLIENTS)}", ENOUGH_TIME, *flags]
            servers[way] = ServerProcess(SAMPLES / name, log, name=name, flags=own)
            stack.callback(servers[way].kill)
        for server in servers.values():
            server.wait_ready()
        request = make_request(name, servers[NONE], directory)
        for clients in CLIENTS:
            yield clients, compare_load(servers, request, clients)


def ways(directory: Path) -> dict[str, list[str]]:
    """The flags of each server, by what it is called in the table."""
    found = {NONE: [], ADAPTIVE: ["--adaptive_batching"]}
    for rows, micros, threads in FILES:
        wait = f", {micros / 1000:g} ms" if micros else ""
        name = f"{rows} rows{wait}, {threads} thread{'s' if threads > 1 else ''}"
        path = directory / name
        path.write_text(
            f"max_batch_size {{ value: {rows} }} batch_timeout_micros {{ value: {micros} }} "
            f"num_batch_threads {{ value: {threads} }} max_enqueued_batches {{ value: 1000 }}"
        )
        found[name] = ["--enable_batching", f"--batching_parameters_file={path}"]
    return found


def make_request(name: str, server: ServerProcess, directory: Path) -> Request:
    """The message, whose answer is a whole one."""
    sample = MODELS[name]
    message = predict_pb2.PredictRequest()
    message.model_spec.name = name
    message.model_spec.signature_name = sample.signature
    for alias, value in sample.make(np.random.default_rng(7)).items():
        message.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        serialized = message.SerializeToString()
        answer = channel.unary_unary(PREDICT, None, None)(serialized, timeout=60)
    assert predict_pb2.PredictResponse.FromString(answer).outputs
    body = directory / "request"
    body.write_bytes(b"\0" + len(serialized).to_bytes(4, "big") + serialized)
    return Request(body, 5 + len(answer))


def compare_load(servers: dict[str, ServerProcess], request: Request, clients: int) -> str:
    """Choose the best file for a number of clients, and compare; the cells of the line."""
    last: dict[str, float] = {}

    def measure(way: str, seconds: float) -> Figures:
        figures = load(servers[way], request, clients, max(clients, int(last.get(way, 0.0) * seconds)))
        last[way] = figures.rate
        return figures

    for way in servers:
        measure(way, 0.0)
        measure(way, 0.2)
    files = [way for way in servers if way not in (NONE, ADAPTIVE)]
    rates = {way: sum(measure(way, SECONDS / 2).rate for _ in range(CHOOSING_ROUNDS)) for way in files}
    best = max(files, key=rates.__getitem__)
    measure(ADAPTIVE, LEARNING_SECONDS)
    compared = [ADAPTIVE, best, NONE]
    figures: dict[str, list[Figures]] = {way: [] for way in compared}
    for turn in range(ROUNDS):
        for way in compared[turn % 3 :] + compared[: turn % 3]:
            figures[way].append(measure(way, SECONDS))
    ratios = [
        Ratio.of([getattr(each, what) for each in figures[ADAPTIVE]], [getattr(each, what) for each in other])
        for other in (figures[best], figures[NONE])
        for what in ("rate", "p99")
    ]
    return " | ".join(map(str, (best, *ratios)))


def load(server: ServerProcess, request: Request, clients: int, requests: int) -> Figures:
    """Send so many requests, each client one at a time.

    Raises:
        AssertionError: an answer is not a whole one.
    """
    connections = min(clients, CONNECTIONS)
    log = request.body.with_name("times")
    log.unlink(missing_ok=True)
    command = ["h2load", "-t1", f"-c{connections}", f"-m{clients // connections}", f"-n{requests}"]
    command += [
        f"-d{request.body}",
        f"--log-file={log}",
        "-Hcontent-type: application/grpc",
        "-Hte: trailers",
    ]
    url = f"http://127.0.0.1:{server.grpc_port}{PREDICT}"
    output = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    # h2load takes an error of gRPC for a success, but it comes without an answer's bytes.
    (received,) = re.findall(r"\((\d+)\) data", output)
    if int(received) != requests * request.answer_bytes:
        raise AssertionError(output)
    rows = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    begin = min(start for start, *_ in rows)
    end = max(start + micros for start, _, micros in rows)
    return Figures(requests / (end - begin) * 1e6, float(np.percentile([row[2] for row in rows], 99)) / 1e3)


HEAD = f"""# Adaptive batching beside the best parameters by hand, in complete servers

Written by `bench/batching_served.py`: gRPC Predict over the http2 transport, one row a request, over at most
{CONNECTIONS} connections; server and client (h2load) share {os.cpu_count()} CPUs. All ways have
image_classifier made fast at load, as by default. "By hand" is the best of {len(FILES)} parameter files for
that very load. Each ratio is adaptive batching's figure over that of the other way: the median of {ROUNDS}
rounds of {SECONDS:g} s, with the lowest and the highest. Rates are better above 1, the 99th percentile of the
latency (p99) below 1.

| Model | Clients | By hand | Rate / hand | p99 / hand | Rate / unbatched | p99 / unbatched |
|---|---|---|---|---|---|---|
"""


if __name__ == "__main__":
    main()
