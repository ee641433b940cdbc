"""The server as a process with real ports, for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import requests
from tensorflow_serving.apis import model_service_pb2_grpc, predict_pb2, prediction_service_pb2_grpc

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 60.0


def free_port() -> int:
    """A TCP port that nothing uses at the moment."""
    with socket.socket() as sock:
        sock.bind(("", 0))
        return int(sock.getsockname()[1])


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """Wait for `condition` to hold, and return what it returned; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        if result := condition():
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"still not after {seconds} s: {what}")
        time.sleep(0.02)


def accepts(port: int) -> bool:
    """Whether something listens on `port` of this machine."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def resident_bytes(pid: int) -> int:
    """The resident size of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class ServerProcess:
    """`python -m app` with free ports and a log that can be read."""

    def __init__(
        self,
        base_path: Path | str,
        log: Path,
        *,
        name: str = "model",
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """Start it; `prefix` is a command that becomes the server, such as `setpriv … --`."""
        self.name = name
        self.grpc_port, self.rest_port = free_port(), free_port()
        self.rest = f"http://127.0.0.1:{self.rest_port}"
        self._log = log
        self._channel: grpc.Channel | None = None
        # To run whole suites over another transport than the default.
        if transport := os.environ.get("FERRY_TEST_GRPC_TRANSPORT"):
            flags = [f"--grpc_transport={transport}", *flags]
        ports = [f"--port={self.grpc_port}", f"--rest_api_port={self.rest_port}"]
        model = [f"--model_name={name}", f"--model_base_path={base_path}"]
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "app", *ports, *model, *flags],
                cwd=REPOSITORY,
                # Where byte code is not written, each start would compile the server anew.
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **(environment or {})},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """What the process has written so far."""
        return self._log.read_text(errors="replace")

    def wait_ready(self) -> ServerProcess:
        """Wait until REST answers, which comes last; fail with the log if the process ends first."""

        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode}:\n{self.log}")
            return accepts(self.rest_port)

        wait_until(ready, f"the server answers:\n{self.log}")
        return self

    def wait_log(self, text: str) -> None:
        """Wait until `text` stands in the log."""
        wait_until(lambda: text in self.log, f"{text!r} in the log")

    def wait_exit(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Wait for the end; the exit status."""
        return self.process.wait(seconds)

    def worker_pid(self) -> int:
        """The process that serves."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def terminate(self) -> None:
        """What `docker stop` sends."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End whatever is left, children too."""
        if self._channel is not None:
            self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def url(self, rest: str = "") -> str:
        """`http://…/v1/models/NAME` and what follows."""
        return f"{self.rest}/v1/models/{self.name}{rest}"

    def predict(self, instances: Any, **more: Any) -> requests.Response:
        """A REST predict request in row format."""
        return requests.post(self.url(":predict"), json={"instances": instances, **more}, timeout=30)

    def states(self) -> dict[int, str]:
        """The state of each version, by REST."""
        answer = requests.get(self.url(), timeout=30).json()
        return {int(entry["version"]): entry["state"] for entry in answer["model_version_status"]}

    @property
    def channel(self) -> grpc.Channel:
        """A channel to the gRPC port, closed with the process."""
        if self._channel is None:
            self._channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}")
        return self._channel

    @property
    def prediction(self) -> Any:
        """A PredictionService stub."""
        return prediction_service_pb2_grpc.PredictionServiceStub(self.channel)

    @property
    def models(self) -> Any:
        """A ModelService stub."""
        return model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict_request(self, values: Sequence[float]) -> Any:
        """A PredictRequest with a float vector x."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self.name
        tensor = request.inputs["x"]
        tensor.dtype = 1
        tensor.tensor_shape.dim.add(size=len(values))
        tensor.float_val.extend(values)
        return request
