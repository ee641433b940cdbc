"""What a second worker gives: requests a second and CPU time for each, with one worker and with two, in turn.

Small predict requests over REST and over gRPC (`--grpc_transport=http2`) to half_plus_two, and a picture over
gRPC to image_classifier, which computes. `bench/workers.py` writes workers.md. The client, h2load on one
thread, shares the CPUs with the server; so what two workers can reach at most is worked out from what a
request costs both.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from isolation import PREDICT, REST_BODY, SAMPLES, request  # noqa: E402
from servers import children, cpu_seconds  # noqa: E402

from tests.support.process import ServerProcess, wait_until  # noqa: E402

ROUNDS = 3
SECONDS = 4
CONNECTIONS = 32
FIGURES = ("rate", "server", "client")


@dataclass(frozen=True)
class Load:
    """So many requests as can be answered.

    Attributes:
        name: for the report.
        model: a sample model.
        body: file name of what is sent.
        grpc: whether it goes to the gRPC port.
    """

    name: str
    model: str
    body: str
    grpc: bool


LOADS = (
    Load("REST predict, 3 floats", "half_plus_two", "small.json", grpc=False),
    Load("gRPC Predict, 3 floats", "half_plus_two", "small.grpc", grpc=True),
    Load("gRPC Predict, one picture to a model that computes", "image_classifier", "image.grpc", grpc=True),
)


@dataclass(frozen=True)
class Found:
    """Of one round: requests a second, and microseconds of CPU time for each."""

    rate: float
    server: float
    client: float


def both_serve(server: ServerProcess) -> bool:
    """Whether two workers have said so."""
    return server.log.count("Exporting HTTP/REST API") == 2


def measure(server: ServerProcess, load: Load, directory: Path) -> Found:
    """One round."""
    command = ["h2load", "-t1", f"-c{CONNECTIONS}", f"-D{SECONDS}", f"-d{directory / load.body}"]
    if load.grpc:
        url = f"http://127.0.0.1:{server.grpc_port}{PREDICT}"
        command += ["-m4", "-Hcontent-type: application/grpc", "-Hte: trailers", url]
    else:
        command += ["--h1", "-Hcontent-type: application/json", server.url(":predict")]
    processes = [server.process.pid, *children(server.process.pid)]
    used, client = sum(map(cpu_seconds, processes)), sum(os.times()[2:4])
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used, client = sum(map(cpu_seconds, processes)) - used, sum(os.times()[2:4]) - client
    ((good, failed),) = re.findall(r"(\d+) succeeded, (\d+) failed", output)
    if int(failed):
        raise AssertionError(output)
    return Found(int(good) / SECONDS, used / int(good) * 1e6, client / int(good) * 1e6)


def line(load: Load, found: dict[int, list[Found]]) -> str:
    """Of the report."""
    one, two = (
        Found(*(statistics.median(getattr(each, name) for each in found[count]) for name in FIGURES))
        for count in (1, 2)
    )
    most = (os.cpu_count() or 1) * 1e6 / (two.server + two.client) / one.rate
    return (
        f"| {load.name} | {one.rate:.0f} | {two.rate:.0f} | {two.rate / one.rate:.2f} | {most:.2f} | "
        f"{two.server / one.server:.2f} | {one.rate * one.server / 1e6:.2f} | "
        f"{two.rate * two.server / 1e6:.2f} | {two.rate * two.client / 1e6:.2f} |\n"
    )


def main() -> None:
    """Measure all loads and write the report."""
    import numpy as np

    lines = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "small.json").write_bytes(REST_BODY)
        image = np.random.default_rng(7).random((1, 224, 224, 3))
        for file, message in (
            ("small.grpc", request("half_plus_two", "x", np.array([1.0, 2.0, 5.0]))),
            ("image.grpc", request("image_classifier", "image", image, "array")),
        ):
            (directory / file).write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        for load in LOADS:
            servers = {}
            try:
                for count in (1, 2):
                    flags = [f"--server_workers={count}", "--grpc_transport=http2"]
                    servers[count] = ServerProcess(
                        SAMPLES / load.model, directory / f"{count}.log", name=load.model, flags=flags
                    ).wait_ready()
                wait_until(partial(both_serve, servers[2]), "both workers serve")
                found: dict[int, list[Found]] = {1: [], 2: []}
                for round_ in range(ROUNDS + 1):
                    for count, server in servers.items():
                        measured = measure(server, load, directory)
                        if round_:  # the first warms up
                            found[count].append(measured)
                lines.append(line(load, found))
                print(lines[-1], end="", flush=True)
            finally:
                for server in servers.values():
                    server.kill()
    (REPOSITORY / "bench" / "workers.md").write_text(HEAD + "".join(lines))


HEAD = f"""# One worker and two

Written by `bench/workers.py` on a machine with {os.cpu_count()} CPUs, which server and client share: h2load
on one thread with {CONNECTIONS} connections. Each figure is the median of {ROUNDS} rounds of {SECONDS} s, one
worker and two in turn. "Most" is what could be reached if server and client together used all CPUs, at what a
request costs with two workers. "CPU" is the server's for each request, two workers to one. The last three
columns are CPUs in use: by the server with one worker and with two, and by the client with two.

| Load | 1 worker, a second | 2, a second | Ratio | Most | CPU | Server, 1 | Server, 2 | Client |
|---|---|---|---|---|---|---|---|---|
"""


if __name__ == "__main__":
    main()
