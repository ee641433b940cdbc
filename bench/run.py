"""What a request costs, as ratios to baselines that run in the same minute on the same machine.

1. The model call: `Model.run` beside TensorFlow's public ways to run the same graph.
2. gRPC: CPU time of the server (user + system, all its processes) per answered request, over either
   transport, beside a bare grpcio server that answers fixed bytes under the same load. Every answer is
   checked.
3. REST, in the same way.

`bench/run.py grpc` runs the second part alone; `call` and `rest` are the others.

Absolute times of a shared machine mean little; the ratios are what to compare.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import grpc  # noqa: E402
import numpy as np  # noqa: E402
from tensorflow_serving.apis import predict_pb2  # noqa: E402

from tests.support import models  # noqa: E402
from tests.support.process import ServerProcess, free_port, wait_until  # noqa: E402

HALF_PLUS_TWO = REPOSITORY / "models-sample" / "half_plus_two"
ROUNDS = 5
CALLS = 2000
REQUESTS = 1500
CLIENTS = 4
IMAGE = np.arange(224 * 224 * 3, dtype=np.float32) + 3

ECHO = """
import sys, grpc
from concurrent import futures
answer = bytes(60)
handler = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
class Any_(grpc.GenericRpcHandler):
    def service(self, details):
        return handler
server = grpc.server(futures.ThreadPoolExecutor(16), handlers=[Any_()])
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
"""


@dataclass(frozen=True)
class Load:
    """So many calls of Predict.

    Attributes:
        name: for the report.
        model: a base path whose model answers x[0] / 2 + 2.
        values: of x.
        connections: at a time.
        streams: calls at a time on each.
        requests: in a round.
    """

    name: str
    model: Path
    values: Any
    connections: int
    streams: int
    requests: int


def main() -> None:
    """Run all parts, or those named as arguments, and print a table for each."""
    parts = sys.argv[1:] or ["call", "grpc", "rest"]
    if "call" in parts:
        print("model call, 3 floats (half_plus_two), median of", ROUNDS, "rounds")
        call_path()
    if "grpc" in parts:
        grpc_servers()
    if "rest" in parts:
        print(
            f"\nserver CPU per request, {CLIENTS} clients, median of {ROUNDS} rounds of {REQUESTS} requests"
        )
        rest_server()


def call_path() -> None:
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
        "signature called eagerly": eager(x=tensor)["y"].numpy,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(ROUNDS + 1):
        for name, call in ways.items():
            started = time.perf_counter()
            for _ in range(CALLS):
                call()
            if round_:  # the first round warms up
                times[name].append((time.perf_counter() - started) / CALLS * 1e6)
    report(times, "Model.run", "us")


def grpc_servers() -> None:
    """Send gRPC loads to a bare grpcio server and to both transports, in turn."""
    with tempfile.TemporaryDirectory() as directory:
        first_pixel = models.save_first_pixel(Path(directory) / "first_pixel" / "1").parent
        loads = (
            Load("1 float, 1 connection, 1 call at a time", HALF_PLUS_TWO, [1.0], 1, 1, 3000),
            Load("1 float, 8 connections, 4 calls each", HALF_PLUS_TWO, [1.0], 8, 4, 8000),
            Load("600 KB, 8 connections, 1 call each", first_pixel, IMAGE, 8, 1, 1600),
        )
        for load in loads:
            print(f"\ngRPC Predict, {load.name}: server CPU per request, median of {ROUNDS} rounds")
            grpc_load(load, Path(directory))


def grpc_load(load: Load, directory: Path) -> None:
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
        report(times, "echo", "us CPU")
    finally:
        for process in itertools.chain(*clients.values(), [echo]):
            process.kill()
            process.wait()
        for server in servers.values():
            server.kill()


def start_clients(load: Load, port: int, request: Path, expected: bytes) -> list[subprocess.Popen[str]]:
    """As many processes as connections, two at most, connected and warm."""
    count = min(2, load.connections)
    started = []
    for _ in range(count):
        command = [sys.executable, str(REPOSITORY / "bench" / "grpc_client.py")]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
    settings = {
        "port": port,
        "request": str(request),
        "expected": expected.hex(),
        "connections": load.connections // count,
        "streams": load.streams,
    }
    ask_clients(started, json.dumps(settings), "ready")
    return started


def ask_clients(processes: list[subprocess.Popen[str]], line: str, answer: str) -> None:
    """Say the same to all and wait for their answers."""
    for process in processes:
        assert process.stdin is not None
        print(line, file=process.stdin, flush=True)
    for process in processes:
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        if said != answer:
            raise AssertionError(f"a client said {said!r} in place of {answer!r}")


def predict_request(values: Any) -> bytes:
    """A PredictRequest for x, in `tensor_content` if it is large."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    tensor = request.inputs["x"]
    tensor.dtype = 1
    if len(values) > 1:
        for size in (1, 224, 224, 3):
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_content = np.asarray(values, np.float32).tobytes()
    else:
        tensor.tensor_shape.dim.add(size=1)
        tensor.float_val.extend(values)
    return request.SerializeToString()


def rest_server() -> None:
    """Send REST requests, beside the bare grpcio server."""
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        echo = subprocess.Popen([sys.executable, "-c", ECHO, str(port)])
        server = ServerProcess(HALF_PLUS_TWO, Path(directory) / "log", name="half_plus_two")
        try:
            server.wait_ready()
            wait_until(lambda: can_connect(port), "the echo server listens")
            loads = {
                "echo (bare grpcio)": ([echo.pid], lambda: grpc_client(port)),
                "REST predict, 3 floats": (
                    [server.process.pid, server.worker_pid()],
                    lambda: rest_client(server.rest_port),
                ),
            }
            times: dict[str, list[float]] = {name: [] for name in loads}
            for round_ in range(ROUNDS + 1):
                for name, (processes, client) in loads.items():
                    used = cpu_of_load(processes, client)
                    if round_:
                        times[name].append(used / REQUESTS * 1e6)
            report(times, "echo (bare grpcio)", "us CPU")
        finally:
            server.kill()
            echo.kill()
            echo.wait()


def can_connect(port: int) -> bool:
    """Whether a gRPC server answers on `port`."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=1)
        except grpc.FutureTimeoutError:
            return False
        return True


def cpu_of_load(processes: list[int], client: Callable[[], Callable[[], None]]) -> float:
    """Seconds of CPU that `processes` use for REQUESTS requests from CLIENTS clients."""

    def send_share() -> None:
        send = client()
        for _ in range(REQUESTS // CLIENTS):
            send()

    threads = [threading.Thread(target=send_share) for _ in range(CLIENTS)]
    before = sum(map(cpu_seconds, processes))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(map(cpu_seconds, processes)) - before


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def grpc_client(port: int) -> Callable[[], None]:
    """A client with a connection of its own, for the echo server."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    call = grpc.insecure_channel(f"127.0.0.1:{port}", options=options).unary_unary("/echo")

    def send() -> None:
        call(b"")

    return send


def rest_client(port: int) -> Callable[[], None]:
    """A client with a connection that it keeps."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def send() -> None:
        connection.request("POST", "/v1/models/half_plus_two:predict", b'{"instances": [1.0, 2.0, 5.0]}')
        answer = connection.getresponse().read()
        if answer != b'{"predictions":[2.5,3.0,4.5]}':
            raise AssertionError(answer)

    return send


def report(times: dict[str, list[float]], base: str, unit: str) -> None:
    """Print each median and its ratio to `base`'s, round by round."""
    for name, values in times.items():
        ratio = statistics.median(value / other for value, other in zip(values, times[base], strict=True))
        print(f"  {name:28}{statistics.median(values):9.1f} {unit:8}{ratio:7.2f} x {base}")


if __name__ == "__main__":
    main()
