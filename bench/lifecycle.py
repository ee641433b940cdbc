"""What versions cost: how soon a new one is noticed, what idling costs, and what clients feel of a swap.

1. 200 models with 20 version directories each: the CPU time of the idle server, and the time from the
   rename that publishes a version to the moment at which it is loaded.
2. The sample image model under load from REST and gRPC clients while 20 versions are published one after
   the other: the latencies during swaps beside those between swaps, and every answer's version.

A run of both writes bench/lifecycle.md.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import grpc  # noqa: E402
import numpy as np  # noqa: E402
import requests  # noqa: E402
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc  # noqa: E402

from bench.run import cpu_seconds  # noqa: E402
from tests.support.process import ServerProcess, wait_until  # noqa: E402

HALF_PLUS_TWO = REPOSITORY / "models-sample" / "half_plus_two" / "00000123"
IMAGE_MODEL = REPOSITORY / "models-sample" / "image_classifier" / "1"
PICTURE = REPOSITORY / "examples" / "sample.jpg"
MODELS, VERSIONS = 200, 20
IDLE_SECONDS = 20.0
NOTICED = 10
SWAPS = 20
PAUSE_SECONDS = 2.0
PARTS = ("many", "swap")
HEAD = """# What versions cost

Written by `bench/lifecycle.py`, a part of `make bench`: server and clients on the same two cores, which the
clients of the swaps keep busy. Percentiles are of latencies, as ratios within the run.

| What | Measured | Target |
|---|---|---|
"""


def main() -> None:
    """Run the parts that are named, or both."""
    parser = argparse.ArgumentParser(description="What versions cost.")
    parser.add_argument("part", nargs="*", choices=[*PARTS, []], help="many, swap; both if left out")
    parts = set(parser.parse_args().part or PARTS)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory:
        if "many" in parts:
            rows += many_models(Path(directory))
        if "swap" in parts:
            rows += swap_under_load(Path(directory))
    lines = [f"| {row.what} | {row.measured} | {row.target} |\n" for row in rows]
    print("".join(lines), end="")
    if len(parts) == len(PARTS):
        (REPOSITORY / "bench" / "lifecycle.md").write_text(HEAD + "".join(lines))


@dataclass(frozen=True)
class Row:
    """A line of the report: what was measured, the figure, and what is aimed at."""

    what: str
    measured: str
    target: str = "-"


def many_models(directory: Path) -> list[Row]:
    """Serve MODELS models; measure idle CPU and the time to notice a version of one of them."""
    entries = []
    for model in range(MODELS):
        base_path = directory / "models" / f"m{model}"
        for version in range(1, VERSIONS + 1):
            shutil.copytree(HALF_PLUS_TWO, base_path / str(version))
        entries.append(f'config {{ name: "m{model}" base_path: "{base_path}" model_platform: "tensorflow" }}')
    config = directory / "models.config"
    config.write_text("model_config_list { " + " ".join(entries) + " }")
    flags = [f"--model_config_file={config}"]
    server = ServerProcess("", directory / "many.log", name="m0", flags=flags)
    try:
        server.wait_ready()
        processes = [server.process.pid, server.worker_pid()]
        time.sleep(5)  # whatever start-up left behind
        before = sum(map(cpu_seconds, processes))
        time.sleep(IDLE_SECONDS)
        idle = (sum(map(cpu_seconds, processes)) - before) / IDLE_SECONDS
        noticed, served = [], []
        for number in range(VERSIONS + 1, VERSIONS + 1 + NOTICED):
            base_path = directory / "models" / "m7"
            shutil.copytree(HALF_PLUS_TWO, directory / "staged")
            started = time.time()
            (directory / "staged").rename(base_path / str(number))
            text = f"Loading servable version {{name: m7 version: {number}}}"
            wait_until(lambda text=text: text in server.log, text)
            noticed.append(time.time() - started)
            wait_until(
                lambda n=number: f"loaded servable version {{name: m7 version: {n}}}" in server.log, ""
            )
            served.append(time.time() - started)
    finally:
        server.kill()
    rows = [Row(f"{MODELS} models with {VERSIONS} versions each, idle: CPU", f"{idle:.2%} of a core", "1 %")]
    for what, times, target in (("load begun", noticed, "100 ms"), ("serving", served, "-")):
        median, worst = statistics.median(times) * 1e3, max(times) * 1e3
        measured = f"{median:.0f} ms in the median, {worst:.0f} ms at worst"
        rows.append(Row(f"the same: from the publication of a version to {what}", measured, target))
    return rows


@dataclass
class Sent:
    """The requests of one kind of client: when each began, and how long it took, in seconds."""

    times: list[tuple[float, float]] = field(default_factory=list)


def swap_under_load(directory: Path) -> list[Row]:
    """Publish SWAPS versions of the image model while clients send; compare latencies."""
    base_path = directory / "image"
    shutil.copytree(IMAGE_MODEL, base_path / "1")
    server = ServerProcess(base_path, directory / "swap.log", name="image")
    stop = threading.Event()
    sent = {"gRPC Predict, array": Sent(), "REST predict, JPEG": Sent()}
    windows: list[tuple[float, float]] = []
    errors: list[Exception] = []

    def run(kind: str, client: Callable[[], Callable[[], None]]) -> None:
        send = client()
        try:
            while not stop.is_set():
                started = time.monotonic()
                send()
                sent[kind].times.append((started, time.monotonic() - started))
        except Exception as error:  # a lost request is what this looks for
            errors.append(error)

    try:
        server.wait_ready()
        clients = {
            "gRPC Predict, array": lambda: grpc_client(server),
            "REST predict, JPEG": lambda: rest_client(server),
        }
        threads = [threading.Thread(target=run, args=item) for item in clients.items()]
        for thread in threads:
            thread.start()
        time.sleep(PAUSE_SECONDS)
        for version in range(2, SWAPS + 2):
            shutil.copytree(IMAGE_MODEL, directory / "staged")
            time.sleep(PAUSE_SECONDS)
            started = time.monotonic()
            (directory / "staged").rename(base_path / str(version))
            done = f"Done unloading servable version {{name: image version: {version - 1}}}"
            wait_until(lambda done=done: done in server.log, done)
            windows.append((started, time.monotonic()))
            shutil.rmtree(base_path / str(version - 1))
        stop.set()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        server.kill()
    seconds = statistics.median(end - start for start, end in windows)
    what = f"{SWAPS} swaps of the image model under load"
    rows = [Row(f"{what}: requests lost", f"{len(errors)} {errors[:1] or ''}".strip(), "0")]
    rows.append(Row("the same: a swap takes", f"{seconds:.1f} s"))
    for kind, requests_ in sent.items():
        during, between = split(requests_.times, windows)
        for percent, target in ((50, "-"), (99, "1.5")):
            ratio = percentile(during, percent) / percentile(between, percent)
            what = f"the same: {kind}, percentile {percent} during swaps to that between them"
            rows.append(Row(what, f"{ratio:.2f} ({len(during)} and {len(between)} requests)", target))
    return rows


def split(
    times: list[tuple[float, float]], windows: list[tuple[float, float]]
) -> tuple[list[float], list[float]]:
    """The latencies of the requests that met a swap, and of the others."""
    during, between = [], []
    for began, took in times:
        met = any(began < end and began + took > start for start, end in windows)
        (during if met else between).append(took)
    return during, between


def percentile(values: list[float], percent: float) -> float:
    """Of `values`, by linear interpolation."""
    return float(np.percentile(values, percent))


def grpc_client(server: ServerProcess) -> Callable[[], None]:
    """Sends a picture as an array, in tensor_content."""
    channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "image"
    request.model_spec.signature_name = "array"
    tensor = request.inputs["image"]
    tensor.dtype = 1
    for size in (1, 224, 224, 3):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = np.random.default_rng(0).random((224, 224, 3), np.float32).tobytes()

    def send() -> None:
        answer = stub.Predict(request, timeout=30)
        if len(answer.outputs["scores"].float_val) != 1000:
            raise AssertionError(answer)

    return send


def rest_client(server: ServerProcess) -> Callable[[], None]:
    """Sends a JPEG file."""
    session = requests.Session()
    body = {"instances": [{"b64": base64.b64encode(PICTURE.read_bytes()).decode()}]}

    def send() -> None:
        answer = session.post(server.url(":predict"), json=body, timeout=30)
        answer.raise_for_status()
        if len(answer.json()["predictions"][0]["scores"]) != 5:
            raise AssertionError(answer.text)

    return send


if __name__ == "__main__":
    main()
