"""Containers for tests: started with ports of Docker's choice, always removed, heard when a test fails."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import grpc
import requests
from docker.models.containers import Container
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from app import __version__
from tests.support.process import REPOSITORY, wait_until

SERVER = "/usr/bin/tensorflow_model_server"
PYTHON = "/opt/ferry/bin/python"
BUILD_TIME = 1_700_000_000
"""What the image's documents say of the time of the build, in seconds since 1970."""
MODEL = "half_plus_two"
HARDENED: dict[str, Any] = {
    "read_only": True,
    "tmpfs": {"/tmp": ""},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}

_NS = 1_000_000_000
QUICK_HEALTH = {"interval": _NS, "timeout": 10 * _NS, "retries": 2, "start_period": _NS // 1000}
"""The image's own health check, asked every second and with the shortest start period (0: the image's)."""


def docker_command() -> str:
    """The client with BuildKit: Debian's, if it is there; another one on PATH may lack it."""
    debian = "/usr/bin/docker"
    return os.environ.get("DOCKER") or (debian if os.access(debian, os.X_OK) else "docker")


def build(tag: str, base_image: str, dockerfile: Path, time: int = BUILD_TIME) -> str:
    """Build this checkout's image with `dockerfile`, and call it `tag`; its documents tell of `time`."""
    arguments = {"BASE_IMAGE": base_image, "VERSION": __version__, "SOURCE_DATE_EPOCH": time}
    flags = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    # The SDK cannot build with BuildKit.
    subprocess.run(
        [docker_command(), "build", "--progress=plain", f"--tag={tag}", f"--file={dockerfile}", *flags, "."],
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        cwd=REPOSITORY,
        check=True,
    )
    return tag


def make_readable(directory: Path) -> Path:
    """Let every user read `directory`, since the server runs as none that the test knows."""
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return directory


def predict_grpc(port: int, values: Sequence[float], model: str = MODEL) -> list[float]:
    """Ask half_plus_two by gRPC."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    tensor = request.inputs["x"]
    tensor.dtype = 1
    tensor.tensor_shape.dim.add(size=len(values))
    tensor.float_val.extend(values)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Predict(request, timeout=30)
    return list(answer.outputs["y"].float_val)


@dataclass
class Server:
    """A container that was started, and how to talk to the server in it."""

    container: Container
    model: str = MODEL

    @property
    def log(self) -> str:
        """Everything it has written."""
        return self.container.logs().decode(errors="replace")

    @property
    def state(self) -> dict[str, Any]:
        """Docker's view of it, `State` of `docker inspect`, read anew."""
        self.container.reload()
        state: dict[str, Any] = self.container.attrs["State"]
        return state

    @property
    def health(self) -> dict[str, Any]:
        """`State.Health`: `Status`, and `Log` with the last five checks."""
        health: dict[str, Any] = self.state["Health"]
        return health

    def port(self, inside: int) -> int:
        """The port of this machine behind which `inside` is."""
        self.container.reload()
        bindings = self.container.ports[f"{inside}/tcp"]
        assert bindings, f"port {inside} is not published"
        return int(bindings[0]["HostPort"])

    def url(self, rest: str = "", inside: int = 8501) -> str:
        """`http://…/v1/models/MODEL` and what follows."""
        return f"http://127.0.0.1:{self.port(inside)}/v1/models/{self.model}{rest}"

    def wait_ready(self, inside: int = 8501) -> Server:
        """Wait until a version is available, by REST; fail at once if the container ends."""
        wait_until(lambda: self._available(inside), "the model is available")
        return self

    def _available(self, inside: int) -> bool:
        state = self.state
        assert state["Running"], f"ended with {state['ExitCode']}"
        try:
            versions = requests.get(self.url(inside=inside), timeout=10).json()["model_version_status"]
        except requests.exceptions.ConnectionError:
            return False
        return any(version["state"] == "AVAILABLE" for version in versions)

    def wait_exit(self) -> int:
        """Wait for the end; the exit status."""
        return int(self.container.wait(timeout=60)["StatusCode"])

    def predict(self, instances: Sequence[float], inside: int = 8501) -> Any:
        """A REST predict request; the answer's body."""
        answer = requests.post(self.url(":predict", inside), json={"instances": instances}, timeout=30)
        return answer.json()

    def execute(self, *command: str) -> str:
        """Run a command in the container that has to succeed; its output."""
        status, output = self.container.exec_run(list(command))
        assert status == 0, output
        assert isinstance(output, bytes)  # not streamed
        return output.decode()

    def listens(self, port: int) -> bool:
        """Whether something listens on `port` inside (outside, Docker's proxy accepts in any case)."""
        code = f"import socket; print(socket.socket().connect_ex(('127.0.0.1', {port})))"
        return self.execute(PYTHON, "-c", code).strip() == "0"


@contextlib.contextmanager
def started(
    client: docker.DockerClient,
    image: str,
    *arguments: str,
    model: str = MODEL,
    mounts: dict[Path, str] | None = None,
    ports: Sequence[int] = (8500, 8501),
    **options: Any,
) -> Iterator[Server]:
    """A container of `image` that ends with the block.

    Args:
        client: who starts it.
        image: the image's name.
        arguments: what follows the image's name in `docker run`.
        model: the name that the server is asked for.
        mounts: host directories and where they appear, read-only.
        ports: ports inside that are to be reached, each through a free one of this machine.
        options: of the SDK's `containers.create`.
    """
    container = client.containers.create(
        image,
        list(arguments),
        volumes={str(path): {"bind": target, "mode": "ro"} for path, target in (mounts or {}).items()},
        ports={f"{port}/tcp": ("127.0.0.1", 0) for port in ports},
        **options,
    )
    server = Server(container, model)
    try:
        container.start()
        yield server
    except BaseException:
        print(f"--- log of the container ---\n{server.log}", file=sys.stderr)
        raise
    finally:
        container.remove(force=True, v=True)
