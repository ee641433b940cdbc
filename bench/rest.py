"""The REST loads: Ferry beside a bare grpcio server, a bare falcon server and the bare model call."""

from __future__ import annotations

import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import drivers
import numpy as np
import orjson
import pybase64
from drivers import Post
from report import Row
from servers import (
    ECHO,
    FALCON_ECHO,
    HALF_PLUS_TWO,
    IMAGE,
    Load,
    ask_clients,
    can_connect,
    children,
    cpu_seconds,
    predict_request,
    start_clients,
)

from tests.support import models
from tests.support.process import ServerProcess, accepts, free_port, wait_until

ROUNDS = 5
PATH = "/v1/models/m:predict"
JPEG_BYTES = 100_000
SMALL_ECHO = Load("1 float, 8 connections, 4 calls each", HALF_PLUS_TWO, [1.0], 8, 4, 8000)
LARGE_ECHO = Load("600 KB, 8 connections, 1 call each", HALF_PLUS_TWO, IMAGE, 8, 1, 800)


@dataclass(frozen=True)
class RestLoad:
    """So many predict requests.

    Attributes:
        name: for the report.
        model: a base path.
        body: of each request.
        inputs: the same as arrays, for the bare call.
        expected: the answer.
        connections: at a time.
        requests: in a round.
        echo: the gRPC load whose cost at a bare grpcio server is the unit.
        target: a ratio; with `stretch` what is aimed at, and `reference` what TensorFlow Serving costs.
    """

    name: str
    model: Path
    body: bytes
    inputs: dict[str, Any]
    expected: bytes
    connections: int
    requests: int
    echo: Load
    target: float
    stretch: float | None = None
    reference: str = ""


def rest_loads(directory: Path) -> list[RestLoad]:
    """What is measured; the same at each run."""
    first_pixel = models.save_first_pixel(directory / "first_pixel" / "1").parent
    length = models.save_length(directory / "length" / "1").parent
    chance = np.random.default_rng(7)
    picture = (chance.integers(0, 256, (1, 224, 224, 3)) / np.float32(255)).astype(np.float32)
    first = float(picture[0, 0, 0, 0] / np.float32(2) + np.float32(2))
    jpeg = random.Random(7).randbytes(JPEG_BYTES)  # noqa: S311 - nobody is to be kept from guessing it
    floats = np.array([1.0, 2.0, 5.0], np.float32)
    return [
        RestLoad(
            "REST predict, 3 floats, 32 connections",
            HALF_PLUS_TWO,
            b'{"instances": [1.0, 2.0, 5.0]}',
            {"x": floats},
            b'{"predictions":[2.5,3.0,4.5]}',
            32,
            8000,
            SMALL_ECHO,
            0.45,
            0.30,
            "0.53-0.70",
        ),
        RestLoad(
            "REST predict, one 224x224x3 image as lists, 8 connections",
            first_pixel,
            orjson.dumps({"instances": picture}, option=orjson.OPT_SERIALIZE_NUMPY),
            {"x": picture},
            b'{"predictions":%s}'
            % orjson.dumps(np.array([first], np.float32), option=orjson.OPT_SERIALIZE_NUMPY),
            8,
            160,
            LARGE_ECHO,
            9.5,
            7.0,
            "11.6-12.2",
        ),
        RestLoad(
            "REST predict, one 100 KB JPEG as base64, 8 connections",
            length,
            b'{"instances":[{"b64":"%s"}]}' % pybase64.b64encode(jpeg),
            {"x": np.array([jpeg], object)},
            b'{"predictions":[%d]}' % JPEG_BYTES,
            8,
            1600,
            LARGE_ECHO,
            0.6,
        ),
    ]


def rest_servers() -> list[Row]:
    """Run every load; print a table for each."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for load in rest_loads(Path(directory)):
            print(f"\n{load.name}: CPU per request, median of {ROUNDS} rounds ({drivers.driver()})")
            rows += rest_load(load, Path(directory))
    return rows


def rest_load(load: RestLoad, directory: Path) -> list[Row]:
    """One load to each server, in turn."""
    body, request = directory / "body", directory / "request"
    body.write_bytes(load.body)
    request.write_bytes(predict_request(load.echo.values))
    ports = [free_port(), free_port()]
    echo = subprocess.Popen([sys.executable, "-c", ECHO, str(ports[0])])
    falcon = subprocess.Popen([sys.executable, "-c", FALCON_ECHO, str(ports[1]), load.expected.decode()])
    server = ServerProcess(load.model, directory / "log", name="m")
    clients: list[subprocess.Popen[str]] = []
    try:
        server.wait_ready()
        wait_until(lambda: can_connect(ports[0]), "the echo server listens")
        wait_until(lambda: accepts(ports[1]), "the falcon server listens")
        clients = start_clients(load.echo, ports[0], request, b"")

        def ask_echo() -> int:
            ask_clients(clients, f"{load.echo.requests // len(clients)}", "done")
            return load.echo.requests

        def post(port: int) -> Callable[[], int]:
            what = Post(port, PATH, body, load.expected, load.connections)
            return lambda: drivers.send(what, load.requests)

        ways: dict[str, tuple[list[int], Callable[[], int]]] = {
            "echo": ([echo.pid], ask_echo),
            "falcon": ([falcon.pid, *children(falcon.pid)], post(ports[1])),
            "ferry": ([server.process.pid, server.worker_pid()], post(server.rest_port)),
            "call": ([os.getpid()], bare_call(load)),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(ROUNDS + 1):
            for name, (processes, ask) in ways.items():
                before = sum(map(cpu_seconds, processes))
                count = ask()
                used = sum(map(cpu_seconds, processes)) - before
                if round_:  # the first round warms up
                    times[name].append(used / count * 1e6)
    finally:
        server.kill()
        for process in itertools.chain(clients, [echo, falcon]):
            process.terminate()
            process.wait()
    return table(load, times)


def bare_call(load: RestLoad) -> Callable[[], int]:
    """TensorFlow's callable for the same inputs, in a loop of this process."""
    from app.engine import savedmodel
    from app.engine.session_config import session_config
    from app.options import Options

    (version,) = (path for path in load.model.iterdir() if path.name.isdigit())
    model = savedmodel.load(str(version), ["serve"], session_config(Options()))
    signature = model.signatures["serving_default"]
    feeds = tuple(spec.tensor for spec in signature.inputs.values())
    fetches = tuple(spec.tensor for spec in signature.outputs.values())
    values = [load.inputs[alias] for alias in signature.inputs]

    def run() -> int:
        for _ in range(load.requests):
            model.call(feeds, values, fetches, None)
        return load.requests

    return run


def table(load: RestLoad, times: dict[str, list[float]]) -> list[Row]:
    """Print and return the ratios to the echo."""
    names = {
        "ferry": load.name,
        "falcon": "  bare falcon.asgi under the same worker and load",
        "call": "  the model call alone",
    }
    rows = []
    print(f"  {'echo, gRPC ' + load.echo.name:58}{statistics.median(times['echo']):9.1f} us CPU")
    for way, name in names.items():
        pairs = zip(times[way], times["echo"], strict=True)
        ratio = statistics.median(value / other for value, other in pairs)
        print(f"  {name:58}{statistics.median(times[way]):9.1f} us CPU{ratio:8.3f} x echo")
        aims = (load.target, load.stretch, load.reference) if way == "ferry" else (None, None, "")
        rows.append(Row(name, ratio, *aims))
    return rows
