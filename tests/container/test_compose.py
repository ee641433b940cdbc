"""The stacks of compose/, with the old docker-compose and with the plugin."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.container.containers import MODEL, Server, docker_command, predict_grpc
from tests.support.process import REPOSITORY

pytestmark = pytest.mark.container


@pytest.fixture(params=["docker-compose", "docker compose"])
def compose(request: pytest.FixtureRequest) -> list[str]:
    """The command; skips what is not installed."""
    if request.param == "docker-compose":
        if shutil.which("docker-compose") is None:
            pytest.skip("docker-compose is not installed")
        return ["docker-compose"]
    plugin = [docker_command(), "compose"]
    if subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("Docker's compose plugin is not installed")
    return plugin


@pytest.fixture
def single(client: docker.DockerClient, image: str, sample: Path, compose: list[str]) -> Iterator[Server]:
    """compose/single.yml, up, with ports of Docker's choice."""
    project = f"ferry-test-{uuid.uuid4().hex[:8]}"
    command = [*compose, "-p", project, "-f", str(REPOSITORY / "compose" / "single.yml")]
    environment = {
        **os.environ,
        "FERRY_IMAGE": image,
        "MODEL_DIR": str(sample),
        "GRPC_PORT": "0",
        "REST_PORT": "0",
    }
    try:
        subprocess.run([*command, "up", "-d"], env=environment, check=True)
        label = f"com.docker.compose.project={project}"
        (container,) = client.containers.list(filters={"label": label})
        yield Server(container)
    finally:
        subprocess.run([*command, "logs"], env=environment, check=False)
        subprocess.run([*command, "down", "-v"], env=environment, check=True)
    assert client.containers.list(all=True, filters={"label": label}) == []


def test_single_serves_behind_closed_doors(single: Server) -> None:
    assert single.wait_ready().predict([1.0, 2.0, 5.0]) == {"predictions": [2.5, 3.0, 4.5]}
    assert predict_grpc(single.port(8500), [1.0]) == [2.5]
    attributes = single.container.attrs
    host: dict[str, Any] = attributes["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert list(host["Tmpfs"]) == ["/tmp"]
    assert attributes["Config"]["StopTimeout"] == 10
    assert attributes["Config"]["Healthcheck"]["Test"][-1] == "healthcheck"
    (mount,) = (mount for mount in attributes["Mounts"] if mount["Type"] == "bind")
    assert mount["Destination"] == f"/models/{MODEL}"
    assert not mount["RW"]


def test_single_defaults_are_the_readmes(compose: list[str]) -> None:
    environment = {name: text for name, text in os.environ.items() if name not in DEFAULTED}
    command = [*compose, "-f", str(REPOSITORY / "compose" / "single.yml"), "config"]
    shown = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert "image: ferry:latest" in shown
    assert f"source: {REPOSITORY / 'models-sample' / MODEL}" in shown
    assert f"MODEL_NAME: {MODEL}" in shown
    for port in ("8500", "8501"):
        assert port in shown


def test_gpu_is_single_on_all_gpus(compose: list[str]) -> None:
    environment = {name: text for name, text in os.environ.items() if name not in DEFAULTED}
    shown = {}
    for stack in ("single", "gpu"):
        command = [*compose, "-f", str(REPOSITORY / "compose" / f"{stack}.yml"), "config"]
        run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        shown[stack] = [line.strip() for line in run.stdout.splitlines()]
    for line in ("driver: nvidia", "count: all", "image: ferry:gpu"):
        assert line in shown["gpu"] or line.replace("all", "-1") in shown["gpu"]
        assert line not in shown["single"]
    assert any("gpu" in line for line in shown["gpu"] if line.startswith("- "))
    rest = set(shown["single"]) - {"image: ferry:latest", "version: '3.7'"}
    assert rest <= set(shown["gpu"])


DEFAULTED = ("FERRY_IMAGE", "MODEL_DIR", "MODEL_NAME", "GRPC_PORT", "REST_PORT")
