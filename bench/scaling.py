"""What one CPU answers, and what a model takes of memory: the figures from which docs/scaling.md reckons.

    python bench/scaling.py

The server has one CPU to itself and the clients of `ferry bench` another. CPU time is the server's own, of
all its processes, over every request that it counted; memory is what its processes hold together.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import requests

from tests.support import models
from tests.support.process import REPOSITORY, ServerProcess, accepts, free_port, wait_until

SAMPLES = ("half_plus_two", "text_classifier", "image_classifier")
TICK = os.sysconf("SC_CLK_TCK")
SECONDS = "4"
LARGE_MEGABYTES = 1000


@dataclass(frozen=True)
class Load:
    """One row: a model, a protocol (`rest` or `grpc`) and a number of clients."""

    model: str
    protocol: str
    clients: int


LOADS = (
    Load("half_plus_two", "rest", 1),
    Load("half_plus_two", "rest", 32),
    Load("half_plus_two", "grpc", 1),
    Load("half_plus_two", "grpc", 32),
    Load("text_classifier", "rest", 8),
    Load("text_classifier", "grpc", 8),
    Load("image_classifier", "rest", 8),
    Load("image_classifier", "grpc", 8),
)


def processes(server: ServerProcess) -> list[Path]:
    """The parent and its children."""
    parent = server.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [Path("/proc") / str(pid) for pid in (parent, *children)]


def ticks(stat: Path) -> int:
    """User and system time of a process so far."""
    fields = stat.read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def cpu_seconds(server: ServerProcess) -> float:
    """That of all of them."""
    return sum(ticks(path / "stat") for path in processes(server)) / TICK


def megabytes(server: ServerProcess) -> float:
    """What they hold, pages that several share counted once."""
    rollups = [(path / "smaps_rollup").read_text() for path in processes(server)]
    return sum(int(text.partition("\nPss:")[2].split()[0]) for text in rollups) / 1000


def answered(server: ServerProcess) -> float:
    """The model requests that it has counted."""
    page = requests.get(f"{server.rest}/metrics", timeout=30).text
    lines = [line for line in page.splitlines() if line.startswith("tensorflow_serving_request_count_total")]
    return sum(float(line.split()[-1]) for line in lines)


def run_bench(address: str, model: str, clients: int, *options: str) -> Any:
    """The figures of `ferry bench`."""
    command = [sys.executable, "-m", "app.tools", "bench", address, "--json", "--model", model]
    command += ["--concurrency", str(clients), "--seconds", SECONDS, *options]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    (step,) = json.loads(done.stdout)["steps"]
    return step


def measure(server: ServerProcess, load: Load, picture: Path) -> str:
    """A row of the table."""
    port = server.rest_port if load.protocol == "rest" else server.grpc_port
    scheme = "http" if load.protocol == "rest" else "grpc"
    address = f"{scheme}://127.0.0.1:{port}"
    body = ["--input", str(picture)] if load.model == "image_classifier" else []
    before, count = cpu_seconds(server), answered(server)
    step = run_bench(address, load.model, load.clients, *body)
    each = (cpu_seconds(server) - before) / (answered(server) - count)
    bound = "*" if step["client_cpu"] > 0.9 else ""
    figures = (f"{step['rate']:,.0f}{bound}", f"{each * 1e6:,.0f}", f"{1 / each:,.0f}")
    return " | ".join((*figures, f"{step['p50']:.2f}", f"{step['p99']:.2f}"))


def config(directory: Path) -> Path:
    """A configuration of all sample models."""
    blocks = [
        f'config {{ name: "{name}" base_path: "{REPOSITORY}/models-sample/{name}" '
        'model_platform: "tensorflow" }'
        for name in SAMPLES
    ]
    path = directory / "models.config"
    path.write_text(f"model_config_list {{ {' '.join(blocks)} }}")
    return path


def picture(directory: Path) -> Path:
    """The REST body of a picture."""
    encoded = base64.b64encode((REPOSITORY / "examples" / "sample.jpg").read_bytes()).decode()
    path = directory / "picture.json"
    path.write_text(json.dumps({"instances": [{"image_bytes": {"b64": encoded}}]}))
    return path


def rates(directory: Path, transport: str) -> None:
    """Print a table for the server on one CPU and the clients on another."""
    first, *others = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {first})
    flags = [f"--model_config_file={config(directory)}", f"--grpc_transport={transport}"]
    server = ServerProcess("", directory / f"{transport}.log", flags=flags)
    os.sched_setaffinity(0, set(others) or {first})
    try:
        server.wait_ready()
        print(f"| Load, {transport} | answers/s | CPU us a request | a full CPU's | p50 ms | p99 ms |")
        print("|---|---|---|---|---|---|")
        for load in LOADS:
            if transport == "http2" or load.protocol == "grpc":
                row = measure(server, load, picture(directory))
                print(f"| {load.model}, {load.protocol}, {load.clients} clients | {row} |", flush=True)
        print(f"\nAll sample models, after that: {megabytes(server):.0f} MB")
    finally:
        server.kill()
        os.sched_setaffinity(0, {first, *others})


def memory(directory: Path) -> None:
    """Print what a process holds with a large model, and while and after it is swapped."""
    exported = models.save_large(directory / "exported", LARGE_MEGABYTES)
    (base := directory / "large").mkdir()
    shutil.copytree(exported, base / "1", copy_function=os.link)
    began = time.monotonic()
    server = ServerProcess(base, directory / "large.log")
    try:
        server.wait_ready()
        print(
            f"{LARGE_MEGABYTES} MB: ready after {time.monotonic() - began:.1f} s, {megabytes(server):.0f} MB"
        )
        shutil.copytree(exported, directory / "staged", copy_function=os.link)
        began, peak = time.monotonic(), 0.0
        (directory / "staged").rename(base / "2")

        def swapped() -> bool:
            nonlocal peak
            peak = max(peak, megabytes(server))
            states = server.states()
            return states.get(2) == "AVAILABLE" and states[1] == "END"

        wait_until(swapped, "version 2 has replaced version 1")
        swap = time.monotonic() - began
        print(f"swapped in {swap:.1f} s, at most {peak:.0f} MB, then {megabytes(server):.0f} MB")
    finally:
        server.kill()


def balancer(directory: Path) -> None:
    """Print the CPU time of HAProxy, by compose/swarm's configuration, for each request to two servers."""
    base = REPOSITORY / "models-sample" / SAMPLES[0]
    servers = [
        ServerProcess(base, directory / f"replica-{number}.log", name=SAMPLES[0]) for number in range(2)
    ]
    ports = {"rest": free_port(), "grpc": free_port()}
    text = (REPOSITORY / "compose" / "swarm" / "haproxy.cfg").read_text()
    text = re.sub(r"resolvers swarm\n(  .*\n)+", "", text).replace("init-addr none resolvers swarm", "")
    text = text.replace("inter 1s fall 2 rise 1 port 8501", "inter 1s fall 2 rise 1")
    text = text.replace("http-check connect port 8501 proto h1", "")
    for name, inside, options in (("rest", 8501, ""), ("grpc", 8500, "proto h2 no-check")):
        text = text.replace(f"bind :{inside}", f"bind 127.0.0.1:{ports[name]}")
        lines = "".join(
            f"  server replica{number} 127.0.0.1:{getattr(server, f'{name}_port')} {options}\n"
            for number, server in enumerate(servers)
        )
        text = re.sub(rf"  server-template replica 32 ferry:{inside}.*\n", lines, text)
    (directory / "haproxy.cfg").write_text(text)
    try:
        for server in servers:
            server.wait_ready()
        proxy = subprocess.Popen(["haproxy", "-db", "-f", str(directory / "haproxy.cfg")])
        try:
            wait_until(lambda: all(accepts(port) for port in ports.values()), "HAProxy answers")
            for protocol, scheme in (("rest", "http"), ("grpc", "grpc")):
                stat = Path(f"/proc/{proxy.pid}/stat")
                before, count = ticks(stat), sum(map(answered, servers))
                address = f"{scheme}://127.0.0.1:{ports[protocol]}"
                run_bench(address, SAMPLES[0], 32)
                each = (ticks(stat) - before) / TICK / (sum(map(answered, servers)) - count)
                print(f"HAProxy, {protocol}: {each * 1e6:.0f} us a request", flush=True)
        finally:
            proxy.terminate()
            proxy.wait()
    finally:
        for server in servers:
            server.kill()


def main() -> None:
    """Measure and print; of the balancer where HAProxy is installed. `balancer`: that alone."""
    with tempfile.TemporaryDirectory() as name:
        if sys.argv[1:] != ["balancer"]:
            for transport in ("http2", "grpcio"):
                rates(Path(name), transport)
                print()
            memory(Path(name))
        if shutil.which("haproxy"):
            balancer(Path(name))


if __name__ == "__main__":
    main()
