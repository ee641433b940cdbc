"""`ferry` in the image: what docs/tools.md says it can do there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.container.containers import HARDENED, MODEL, Server, docker_command, started

pytestmark = pytest.mark.container

BASE = f"/models/{MODEL}"


@pytest.fixture(scope="module")
def server(client: docker.DockerClient, image: str, sample: Path) -> Iterator[Server]:
    """A server whose container has the tools beside it; the root is read-only, as in the stacks."""
    mounts = {sample: BASE}
    with started(client, image, mounts=mounts, environment={"MODEL_NAME": MODEL}, **HARDENED) as running:
        yield running.wait_ready()


def test_it_inspects_directories_and_servers(server: Server) -> None:
    for place in (BASE, "localhost:8501", "grpc://localhost:8500"):
        found = json.loads(server.execute("ferry", "inspect", place, "--model", MODEL, "--run", "--json"))
        assert (found["model"], found["version"]) == (MODEL, 123)
        assert {entry["run"] for entry in found["signatures"].values()} == {"OK"}


def test_it_checks(server: Server) -> None:
    told = server.execute("ferry", "check", "--model_name=m", f"--model_base_path={BASE}")
    assert told.splitlines()[-1] == "models: 1, versions: 1, problems: 0"
    status, output = server.container.exec_run(["ferry", "check", "--model_base_path=/nowhere"])
    assert status == 1
    assert b"/nowhere" in output


@pytest.mark.parametrize("place", ["localhost:8501", "grpc://localhost:8500"])
def test_it_loads(server: Server, place: str) -> None:
    few = ("--seconds", "0.2", "--warm-seconds", "0", "--concurrency", "1,2", "--json")
    steps = json.loads(server.execute("ferry", "bench", place, "--model", MODEL, *few))["steps"]
    assert [step["errors"] for step in steps] == [{}, {}]
    assert all(step["answers"] for step in steps)


def test_it_exports_what_needs_no_keras_and_says_what_does(server: Server) -> None:
    told = server.execute("ferry", "export", BASE, "/tmp/out", "--name", "copy", "--version", "7")
    assert "version 7 of copy" in told
    server.execute("ls", "/tmp/out/copy/7/saved_model.pb")
    status, output = server.container.exec_run(
        ["sh", "-c", "echo > /tmp/m.keras; ferry export /tmp/m.keras /tmp/out --name k"]
    )
    assert status == 1
    assert b"pip install 'ferry-model-server[keras]'" in output


def test_it_serves(client: docker.DockerClient, image: str, sample: Path) -> None:
    arguments = ("serve", "--rest_api_port=8501", f"--model_name={MODEL}", f"--model_base_path={BASE}")
    with started(client, image, *arguments, mounts={sample: BASE}, entrypoint=["ferry"]) as running:
        assert running.wait_ready().predict([1.0]) == {"predictions": [2.5]}


def test_it_needs_no_server(image: str, sample: Path) -> None:
    """The command of docs/tools.md."""
    command = [docker_command(), "run", "--rm", "--entrypoint", "ferry", "-v", f"{sample}:{BASE}:ro", image]
    done = subprocess.run([*command, "inspect", BASE], check=True, capture_output=True, text=True)
    assert "curl -s -d" in done.stdout
