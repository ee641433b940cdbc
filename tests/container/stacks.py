"""The stacks of compose/ for tests: up with ports of Docker's choice, heard, always down."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors
import pytest
from docker.models.containers import Container

from tests.container.containers import MODEL, Server, docker_command
from tests.support.process import REPOSITORY

COMPOSE = REPOSITORY / "compose"
STANDINS = Path(__file__).parent / "standins" / "Dockerfile"
_IMAGE = re.compile(r"image: \$\{(\w+):-((?:\S+/)?(\w+):\S+)\}")

Images = Callable[[str], dict[str, str]]
"""A stack's name -> the variables that name an image for everything in it."""


def compose_command() -> list[str]:
    """Docker's plugin or else the old docker-compose; skips the test where neither is installed."""
    plugin = [docker_command(), "compose"]
    if subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode == 0:
        return plugin
    if shutil.which("docker-compose") is None:
        pytest.skip("neither Docker's compose plugin nor docker-compose is installed")
    return ["docker-compose"]


def find_images(client: docker.DockerClient, image: str, base_image: str, stack: str) -> dict[str, str]:
    """The variables of a stack's images: Ferry's, and for others the one that it names or a stand-in.

    An image that is not here and cannot be pulled is built from Debian's package, if standins/Dockerfile has
    a stage of its name; or else its variable is missing from the answer.
    """
    found = {"FERRY_IMAGE": image}
    for variable, name, short in _IMAGE.findall((COMPOSE / f"{stack}.yml").read_text()):
        if variable != "FERRY_IMAGE" and (one := _find(client, name, short, base_image)):
            found[variable] = one
    return found


def _find(client: docker.DockerClient, name: str, short: str, base_image: str) -> str:
    with contextlib.suppress(docker.errors.ImageNotFound):
        client.images.get(name)
        return name
    with contextlib.suppress(docker.errors.APIError):
        client.images.pull(name)
        return name
    if f" AS {short}\n" not in STANDINS.read_text():
        return ""
    tag = f"ferry-test-standin:{short}"
    command = [
        docker_command(),
        "build",
        f"--target={short}",
        f"--tag={tag}",
        f"--build-arg=BASE_IMAGE={base_image}",
    ]
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    subprocess.run([*command, str(STANDINS.parent)], env=environment, check=True)
    return tag


@dataclass(frozen=True)
class Stack:
    """A stack that is up.

    Attributes:
        client: the engine.
        project: Compose's name for this one.
    """

    client: docker.DockerClient
    project: str

    def container(self, service: str) -> Container:
        """The container of a service, also one that has ended."""
        labels = [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"]
        (container,) = self.client.containers.list(all=True, filters={"label": labels})
        return container

    def server(self, service: str = "ferry", model: str = MODEL) -> Server:
        """The container of a service, with what tests ask a server."""
        return Server(self.container(service), model)


@contextlib.contextmanager
def up(
    client: docker.DockerClient, stack: str, variables: dict[str, str], services: Sequence[str] = ()
) -> Iterator[Stack]:
    """A stack of compose/ for the length of the block; its logs are printed for a test that fails.

    Args:
        client: the engine.
        stack: the file's name without its ending.
        variables: what the file reads from the environment; ports are left to Docker if not given.
        services: what to start of it; all, if empty.
    """
    text = (COMPOSE / f"{stack}.yml").read_text()
    ports = dict.fromkeys(re.findall(r"\{(\w+_PORT):-", text), "0")
    environment = {**os.environ, **ports, **variables}
    project = f"ferry-test-{uuid.uuid4().hex[:8]}"
    command = [*compose_command(), "-p", project, "-f", str(COMPOSE / f"{stack}.yml")]
    try:
        subprocess.run([*command, "up", "-d", *services], env=environment, check=True)
        yield Stack(client, project)
    finally:
        subprocess.run([*command, "logs"], env=environment, check=False)
        subprocess.run([*command, "down", "-v", "-t", "2"], env=environment, check=True, capture_output=True)
