"""What a request costs, as ratios to baselines that run in the same minute on the same machine.

1. The model call: `Model.run` beside TensorFlow's public ways to run the same graph.
2. The server: CPU time (user + system, all its processes) per answered request, beside a bare
   grpcio server that answers fixed bytes under the same load. Every answer is checked.

Absolute times of a shared machine mean little; the ratios are what to compare.
"""

from __future__ import annotations

import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import grpc  # noqa: E402
import numpy as np  # noqa: E402

from tests.support.process import ServerProcess, free_port, wait_until  # noqa: E402

HALF_PLUS_TWO = REPOSITORY / "models-sample" / "half_plus_two"
ROUNDS = 5
CALLS = 2000
REQUESTS = 1500
CLIENTS = 4

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


def main() -> None:
    """Run both parts and print a table for each."""
    print("model call, 3 floats (half_plus_two), median of", ROUNDS, "rounds")
    call_path()
    print(f"\nserver CPU per request, {CLIENTS} clients, median of {ROUNDS} rounds of {REQUESTS} requests")
    requests_to_servers()


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


def requests_to_servers() -> None:
    """Send the same number of requests to each server in turn and read its CPU clock."""
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        echo = subprocess.Popen([sys.executable, "-c", ECHO, str(port)])
        server = ServerProcess(HALF_PLUS_TWO, Path(directory) / "log", name="half_plus_two")
        try:
            server.wait_ready()
            wait_until(lambda: can_connect(port), "the echo server listens")
            loads = {
                "echo (bare grpcio)": ([echo.pid], lambda: grpc_client(port, server, check=False)),
                "gRPC Predict, 1 float": (
                    [server.process.pid, server.worker_pid()],
                    lambda: grpc_client(server.grpc_port, server, check=True),
                ),
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


def grpc_client(port: int, server: ServerProcess, *, check: bool) -> Callable[[], None]:
    """A client with a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    call = grpc.insecure_channel(f"127.0.0.1:{port}", options=options).unary_unary(
        "/tensorflow.serving.PredictionService/Predict"
    )
    request = server.predict_request([1.0]).SerializeToString()
    expected = np.float32(2.5).tobytes()

    def send() -> None:
        answer = call(request)
        if check and expected not in answer:
            raise AssertionError(answer)

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
