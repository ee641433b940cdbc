"""What a request costs, as ratios to baselines that run in the same minute on the same machine.

1. The model call: `Model.run` beside TensorFlow's public ways to run the same graph.
2. gRPC: CPU time of the server (user + system, all its processes) per answered request, over either
   transport, beside a bare grpcio server that answers fixed bytes under the same load. Every answer is
   checked.
3. REST, in the same way, and beside a bare falcon server (`rest.py`).

`bench/run.py grpc` runs the second part alone; `call` and `rest` are the others. All of them together write
report.md and report.svg.

Absolute times of a shared machine mean little; the ratios are what to compare.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402
from report import Row, write  # noqa: E402
from rest import rest_servers  # noqa: E402
from servers import (  # noqa: E402
    ECHO,
    HALF_PLUS_TWO,
    IMAGE,
    Load,
    ask_clients,
    can_connect,
    cpu_seconds,
    predict_request,
    start_clients,
)

from tests.support import models  # noqa: E402
from tests.support.process import ServerProcess, free_port, wait_until  # noqa: E402

ROUNDS = 5
CALLS = 2000
# By gRPC load: target, stretch, and what TensorFlow Serving in C++ took beside the same echo.
AIMS = ((0.35, None, "0.80-1.09"), (0.25, 0.15, "0.44-0.55"), (0.70, 0.50, "0.83-1.09"))


def main() -> None:
    """Run all parts, or those named as arguments, and print a table for each."""
    parts = sys.argv[1:] or ["call", "grpc", "rest"]
    rows: list[Row] = []
    if "call" in parts:
        print("model call, 3 floats (half_plus_two), median of", ROUNDS, "rounds")
        rows += call_path()
    if "grpc" in parts:
        rows += grpc_servers()
    if "rest" in parts:
        rows += rest_servers()
    if not sys.argv[1:]:
        write(rows, REPOSITORY / "bench")


def call_path() -> list[Row]:
    """Time the same graph through four calls, in turn."""
    import tensorflow as tf

    from app.engine import savedmodel
    from app.engine.session_config import session_config
    from app.options import Options

    path = str(next(HALF_PLUS_TWO.iterdir()))
    model = savedmodel.load(path, ["serve"], session_config(Options()))
    signature = model.signatures["serving_default"]
    x = np.array([[1.0], [2.0], [5.0]], np.float32)
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    with graph.as_default():
        tf.compat.v1.saved_model.loader.load(session, ["serve"], path)
    prepared = session.make_callable("y:0", feed_list=["x:0"])
    eager = tf.saved_model.load(path).signatures["serving_default"]
    tensor = tf.constant(x)
    ways: dict[str, Callable[[], Any]] = {
        "Model.run": lambda: model.run(signature, {"x": x}),
        "Session.make_callable": lambda: prepared(x),
        "Session.run": lambda: session.run("y:0", {"x:0": x}),
        "signature called eagerly": lambda: eager(x=tensor)["y"].numpy(),  # noqa: PLW0108 - the call is what is timed
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(ROUNDS + 1):
        for name, call in ways.items():
            started = time.perf_counter()
            for _ in range(CALLS):
                call()
            if round_:  # the first round warms up
                times[name].append((time.perf_counter() - started) / CALLS * 1e6)
    ratios = report(times, "Model.run", "us")
    return [Row(f"model call, 3 floats: {name}", ratio) for name, ratio in ratios.items()]


def grpc_servers() -> list[Row]:
    """Send gRPC loads to a bare grpcio server and to both transports, in turn."""
    with tempfile.TemporaryDirectory() as directory:
        first_pixel = models.save_first_pixel(Path(directory) / "first_pixel" / "1").parent
        loads = (
            Load("1 float, 1 connection, 1 call at a time", HALF_PLUS_TWO, [1.0], 1, 1, 3000),
            Load("1 float, 8 connections, 4 calls each", HALF_PLUS_TWO, [1.0], 8, 4, 8000),
            Load("600 KB, 8 connections, 1 call each", first_pixel, IMAGE, 8, 1, 1600),
        )
        rows = []
        for load, aims in zip(loads, AIMS, strict=True):
            print(f"\ngRPC Predict, {load.name}: server CPU per request, median of {ROUNDS} rounds")
            ratios = grpc_load(load, Path(directory))
            rows.append(Row(f"gRPC Predict, {load.name}, http2", ratios["http2"], *aims))
            rows.append(Row("  the same over grpcio", ratios["grpcio"]))
    return rows


def grpc_load(load: Load, directory: Path) -> dict[str, float]:
    """One load to each server."""
    port = free_port()
    echo = subprocess.Popen([sys.executable, "-c", ECHO, str(port)])
    servers = {
        transport: ServerProcess(
            load.model, directory / transport, name="m", flags=[f"--grpc_transport={transport}"]
        )
        for transport in ("grpcio", "http2")
    }
    clients: dict[str, list[subprocess.Popen[str]]] = {}
    try:
        wait_until(lambda: can_connect(port), "the echo server listens")
        request = directory / "request"
        request.write_bytes(predict_request(load.values))
        clients["echo"] = start_clients(load, port, request, b"")
        processes = {"echo": [echo.pid]}
        for transport, server in servers.items():
            server.wait_ready()
            expected = np.float32(load.values[0] / 2 + 2).tobytes()
            clients[transport] = start_clients(load, server.grpc_port, request, expected)
            processes[transport] = [server.process.pid, server.worker_pid()]
        times: dict[str, list[float]] = {name: [] for name in clients}
        for _ in range(ROUNDS):
            for name, started in clients.items():
                before = sum(map(cpu_seconds, processes[name]))
                ask_clients(started, f"{load.requests // len(started)}", "done")
                used = sum(map(cpu_seconds, processes[name])) - before
                times[name].append(used / load.requests * 1e6)
        return report(times, "echo", "us CPU")
    finally:
        for process in itertools.chain(*clients.values(), [echo]):
            process.kill()
            process.wait()
        for server in servers.values():
            server.kill()


def report(times: dict[str, list[float]], base: str, unit: str) -> dict[str, float]:
    """Print each median and its ratio to `base`'s, round by round; return the ratios."""
    ratios = {}
    for name, values in times.items():
        ratio = statistics.median(value / other for value, other in zip(values, times[base], strict=True))
        print(f"  {name:28}{statistics.median(values):9.1f} {unit:8}{ratio:7.2f} x {base}")
        ratios[name] = ratio
    return ratios


if __name__ == "__main__":
    main()
