"""What is measured, and what it is measured beside: processes, their CPU time, and gRPC clients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import predict_pb2

REPOSITORY = Path(__file__).resolve().parent.parent
HALF_PLUS_TWO = REPOSITORY / "models-sample" / "half_plus_two"
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


# The like of it for REST: falcon reads the body and answers fixed bytes, under the same worker as Ferry.
FALCON_ECHO = """
import sys, falcon.asgi
from gunicorn.app.base import BaseApplication
from uvicorn_worker import UvicornWorker
class Worker(UvicornWorker):
    CONFIG_KWARGS = {"loop": "uvloop", "http": "httptools", "lifespan": "off", "access_log": False}
answer = sys.argv[2].encode()
class Resource:
    async def on_post(self, req, resp):
        await req.stream.read()
        resp.content_type, resp.data = "application/json", answer
app = falcon.asgi.App()
app.add_route("/v1/models/m:predict", Resource())
class Application(BaseApplication):
    def load_config(self):
        for name, value in {"bind": f"127.0.0.1:{sys.argv[1]}", "worker_class": Worker, "keepalive": 75,
                            "loglevel": "warning", "control_socket_disable": True}.items():
            self.cfg.set(name, value)
    def load(self):
        return app
Application().run()
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


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def can_connect(port: int) -> bool:
    """Whether a gRPC server answers on `port`."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=1)
        except grpc.FutureTimeoutError:
            return False
        return True


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
