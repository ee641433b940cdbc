"""What a heavy model does to small requests beside it: half_plus_two, 500 requests a second, beside ResNet50.

The small requests come at a steady rate, whether earlier ones were answered or not, from h2load, over REST
and over gRPC with each transport. Each time first alone, then while ResNet50 is kept busy over the same gRPC
port. Answers are checked before, and by status during the load.

`bench/isolation.py` writes isolation.md. Server, both models and all clients share the machine's CPUs; h2load
goes before others (a negative nice) where that is allowed, so that its own waits for a CPU are not taken for
the server's.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402
from drivers import Post, check_one  # noqa: E402
from tensorflow_serving.apis import predict_pb2  # noqa: E402

from tests.support.process import ServerProcess  # noqa: E402

SAMPLES = REPOSITORY / "models-sample"
RATE = 500
CONNECTIONS = 5
SECONDS = 10
WARM_SECONDS = 2
HEAVY_CLIENTS = 4
TARGET_MS = 5.0
PREDICT = "/tensorflow.serving.PredictionService/Predict"
REST_PREDICT = "/v1/models/half_plus_two:predict"
REST_BODY = b'{"instances": [1.0, 2.0, 5.0]}'

HEAVY = f"""
import sys, threading, time, grpc
port, file, clients, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
request, done, end = open(file, "rb").read(), [], time.monotonic() + seconds
def ask():
    with grpc.insecure_channel("127.0.0.1:" + port, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary("{PREDICT}")
        while time.monotonic() < end:
            call(request, timeout=60)
            done.append(1)
threads = [threading.Thread(target=ask) for _ in range(clients)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(done))
"""


@dataclass(frozen=True)
class Way:
    """How the small requests come.

    Attributes:
        name: for the report.
        transport: of the server's gRPC port.
        rest: whether they come over REST instead.
    """

    name: str
    transport: str
    rest: bool


WAYS = (
    Way("REST", "http2", rest=True),
    Way("gRPC, http2", "http2", rest=False),
    Way("REST beside grpcio", "grpcio", rest=True),
    Way("gRPC, grpcio", "grpcio", rest=False),
)


@dataclass(frozen=True)
class Found:
    """Of one round.

    Attributes:
        p50: of the answer times, in milliseconds.
        p99: the same.
        longest: the same.
        requests: answered in a second.
        heavy: requests to ResNet50 answered in a second.
    """

    p50: float
    p99: float
    longest: float
    requests: float
    heavy: float


def request(model: str, name: str, values: np.ndarray, signature: str = "") -> bytes:
    """A serialized PredictRequest; for `serving_default` without a `signature`."""
    message = predict_pb2.PredictRequest()
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    tensor = message.inputs[name]
    tensor.dtype = 1
    for size in values.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = values.astype(np.float32).tobytes()
    return message.SerializeToString()


def heavy_input() -> str:
    """The name of ResNet50's input."""
    from app.engine import savedmodel_file

    (version,) = (SAMPLES / "resnet50").iterdir()
    meta_graph = savedmodel_file.meta_graph(savedmodel_file.read(str(version)), ["serve"])
    (name,) = meta_graph.signature_def["serving_default"].inputs
    return str(name)


def go_first() -> None:
    """Let the process go before others, where that is allowed."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)


def measure(server: ServerProcess, way: Way, directory: Path, *, heavy: bool) -> Found:
    """One round."""
    seconds = SECONDS + WARM_SECONDS
    log = directory / "times"
    log.unlink(missing_ok=True)
    load = None
    if heavy:
        arguments = [str(server.grpc_port), str(directory / "heavy"), str(HEAVY_CLIENTS), str(seconds + 2)]
        load = subprocess.Popen([sys.executable, "-c", HEAVY, *arguments], stdout=subprocess.PIPE, text=True)
    common = ["-t1", f"-c{CONNECTIONS}", f"--rps={RATE // CONNECTIONS}", f"-D{seconds}", f"--log-file={log}"]
    if way.rest:
        kind = ["--h1", f"-d{directory / 'body'}", "-Hcontent-type: application/json"]
        url = f"{server.rest}{REST_PREDICT}"
    else:
        kind = ["-m32", f"-d{directory / 'small'}", "-Hcontent-type: application/grpc", "-Hte: trailers"]
        url = f"http://127.0.0.1:{server.grpc_port}{PREDICT}"
    subprocess.run(
        ["h2load", *common, *kind, url], check=True, stdout=subprocess.DEVNULL, preexec_fn=go_first
    )
    lines = sorted(tuple(map(int, line.split())) for line in log.read_text().splitlines())
    if any(status != 200 for _, status, _ in lines):
        raise AssertionError("a request failed")
    begin = lines[0][0] + WARM_SECONDS * 1_000_000
    times = sorted(micros / 1000 for start, _, micros in lines if start >= begin)
    done = 0
    if load is not None:
        output, _ = load.communicate()
        done = int(output)
    return Found(
        statistics.median(times),
        times[int(len(times) * 0.99)],
        times[-1],
        len(times) / SECONDS,
        done / (seconds + 2),
    )


def main() -> None:
    """Measure all ways and write the report."""
    flags = sys.argv[1:]
    subprocess.run([sys.executable, SAMPLES / "build.py", "half_plus_two", "resnet50"], check=True)
    found: dict[str, tuple[Found, Found]] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        small = request("half_plus_two", "x", np.array([1.0, 2.0, 5.0]))
        (directory / "body").write_bytes(REST_BODY)
        (directory / "small").write_bytes(b"\0" + len(small).to_bytes(4, "big") + small)
        image = np.random.default_rng(7).random((1, 224, 224, 3))
        (directory / "heavy").write_bytes(request("resnet50", heavy_input(), image))
        config = directory / "models"
        entries = (
            f'config {{ name: "{model}" base_path: "{SAMPLES / model}" model_platform: "tensorflow" }}'
            for model in ("half_plus_two", "resnet50")
        )
        config.write_text(f"model_config_list {{ {' '.join(entries)} }}")
        for transport in dict.fromkeys(way.transport for way in WAYS):
            own = [f"--model_config_file={config}", f"--grpc_transport={transport}", *flags]
            server = ServerProcess("", directory / transport, flags=own)
            try:
                server.wait_ready()
                expected = b'{"predictions":[2.5,3.0,4.5]}'
                check_one(Post(server.rest_port, REST_PREDICT, directory / "body", expected, 1))
                for way in (way for way in WAYS if way.transport == transport):
                    alone = measure(server, way, directory, heavy=False)
                    beside = measure(server, way, directory, heavy=True)
                    found[way.name] = alone, beside
                    print(way.name, alone, beside, sep="\n  ", flush=True)
            finally:
                server.kill()
    if not flags:
        (REPOSITORY / "bench" / "isolation.md").write_text(report(found))


def report(found: dict[str, tuple[Found, Found]]) -> str:
    """The figures as Markdown."""
    lines = [
        f"| {name} | {alone.p50:.2f} | {alone.p99:.2f} | {beside.p50:.2f} | {beside.p99:.2f} | "
        f"{beside.longest:.1f} | {beside.requests:.0f} | {beside.heavy:.1f} |\n"
        for name, (alone, beside) in found.items()
    ]
    return HEAD + "".join(lines)


HEAD = f"""# Small requests beside a heavy model

Written by `bench/isolation.py`: half_plus_two at {RATE} requests a second over {CONNECTIONS} connections,
sent whether earlier ones were answered or not; ResNet50 (one 600 KB picture a request) kept busy by
{HEAVY_CLIENTS} clients over gRPC. Milliseconds. Aim: a p99 below {TARGET_MS:g} ms beside ResNet50.

| Small requests over | p50 alone | p99 alone | p50 | p99 | longest | answered a second | ResNet50 a second |
|---|---|---|---|---|---|---|---|
"""


if __name__ == "__main__":
    main()
