"""How the container ends, and what it says when it cannot serve."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import docker
import grpc
import pytest
import requests
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from app.options import TRANSPORTS
from tests.container.containers import MODEL, QUICK_HEALTH, Server, make_readable, started
from tests.support import models
from tests.support.process import wait_until

pytestmark = pytest.mark.container

STEPS = 200_000  # a run of some hundredths of a second, or more


def stop(server: Server) -> int:
    """`docker stop` with its usual ten seconds, after which it kills: the exit status is then 137."""
    server.container.stop(timeout=10)
    return int(server.state["ExitCode"])


def test_docker_stop_ends_it_in_order(client: docker.DockerClient, image: str, sample: Path) -> None:
    mounts = {sample: f"/models/{MODEL}"}
    with started(client, image, mounts=mounts, environment={"MODEL_NAME": MODEL}) as server:
        server.wait_ready()
        assert stop(server) == 0


class Clients:
    """REST and gRPC clients that keep a connection each and ask without a pause until the server ends it."""

    def __init__(self, url: str, target: str, refusals: set[grpc.StatusCode]) -> None:
        self._refusals = refusals
        self.answered: list[str] = []
        self.lost: list[object] = []
        self.stopping = threading.Event()
        self._url, self._target = url, target
        self._threads = [threading.Thread(target=kind) for kind in (self._rest, self._grpc) * 3]
        for thread in self._threads:
            thread.start()

    def _rest(self) -> None:
        with requests.Session() as session:
            ends = False
            while not ends:
                try:
                    answer = session.post(self._url, json={"inputs": STEPS}, timeout=60)
                    assert answer.json() == {"outputs": STEPS}
                except (requests.RequestException, AssertionError) as error:
                    self.lost.append(error)
                    return
                self.answered.append("REST")
                ends = answer.headers.get("Connection") == "close"

    def _grpc(self) -> None:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "busy"
        request.inputs["x"].dtype = 9
        request.inputs["x"].tensor_shape.SetInParent()
        request.inputs["x"].int64_val.append(STEPS)
        with grpc.insecure_channel(self._target) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while True:
                before = not self.stopping.is_set()  # what is sent later may find the port closed
                try:
                    stub.Predict(request, timeout=60)
                except grpc.RpcError as error:
                    status: Any = error
                    if before or status.code() not in self._refusals:
                        self.lost.append(status)
                    return
                self.answered.append("gRPC")

    def join(self) -> None:
        """Wait until every client has ended."""
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_docker_stop_under_load_loses_no_accepted_request(
    client: docker.DockerClient, image: str, tmp_path: Path, transport: str
) -> None:
    base_path = tmp_path / "busy"
    models.save_busy(base_path / "1")
    mounts = {make_readable(base_path): "/models/busy"}
    flags = (f"--grpc_transport={transport}", "--rest_api_timeout_in_ms=0")
    environment = {"MODEL_NAME": "busy"}
    with started(client, image, *flags, model="busy", mounts=mounts, environment=environment) as server:
        server.wait_ready()
        refusals = {grpc.StatusCode.UNAVAILABLE}
        if transport == "grpcio":  # says so to what comes while it shuts down, and no handler has seen
            refusals.add(grpc.StatusCode.CANCELLED)
        clients = Clients(server.url(":predict"), f"127.0.0.1:{server.port(8500)}", refusals)
        wait_until(lambda: {"REST", "gRPC"} <= set(clients.answered), "both protocols are answered")
        clients.stopping.set()
        status = stop(server)
        clients.join()
        assert clients.lost == []
        assert status == 0


def test_docker_stop_ends_it_while_it_waits_for_a_model(client: docker.DockerClient, image: str) -> None:
    with started(client, image) as server:
        wait_until(lambda: "Could not find base path" in server.log, "the missing base path is told")
        assert stop(server) == 0


def test_docker_stop_ends_it_while_it_still_imports(
    client: docker.DockerClient, image: str, tmp_path: Path
) -> None:
    # An `app` in front of the real one, whose import never ends: the moment is hard to meet otherwise.
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("")
    (tmp_path / "app" / "__main__.py").write_text("import signal\nprint('importing')\nsignal.pause()\n")
    mounts = {make_readable(tmp_path): "/slow"}
    with started(client, image, mounts=mounts, environment={"PYTHONPATH": "/slow"}) as server:
        wait_until(lambda: "importing" in server.log, "the import has begun")
        assert stop(server) == 0


def test_a_missing_base_path_is_told_once_and_unhealthy_until_it_is_there(
    client: docker.DockerClient, image: str, sample: Path, tmp_path: Path
) -> None:
    mounts = {make_readable(tmp_path): "/models"}
    with started(
        client, image, mounts=mounts, environment={"MODEL_NAME": MODEL}, healthcheck=QUICK_HEALTH
    ) as server:
        wait_until(lambda: "not found" in server.log, "the missing base path is told")
        before = {check["Start"] for check in server.health["Log"]}

        def five_checks() -> bool:
            starts = {check["Start"] for check in server.health["Log"]}
            return len(starts) >= 5 and not starts & before

        # They are a second apart and so are polls: by then there were several.
        wait_until(five_checks, "five health checks more")
        assert server.health["Status"] == "unhealthy"
        assert "the server does not answer" in server.health["Log"][-1]["Output"]
        assert not server.listens(8500)
        assert not server.listens(8501)
        (line,) = (line for line in server.log.splitlines() if f"/models/{MODEL} not found" in line)
        assert "Create or mount it" in line

        shutil.copytree(sample, tmp_path / MODEL)
        assert server.wait_ready().predict([1.0]) == {"predictions": [2.5]}
        wait_until(lambda: server.health["Status"] == "healthy", "the container is healthy")


def test_health_waits_for_a_slow_load(client: docker.DockerClient, image: str) -> None:
    # The image's own start period, minutes long: failures count only after it.
    often = {"interval": QUICK_HEALTH["interval"]}
    with started(client, image, healthcheck=often) as server:
        wait_until(lambda: len(server.health["Log"]) >= 5, "five health checks")
        assert {check["ExitCode"] for check in server.health["Log"]} == {1}
        assert server.health["Status"] == "starting"


def test_a_corrupt_model_ends_it_with_one_line(
    client: docker.DockerClient, image: str, tmp_path: Path
) -> None:
    version = tmp_path / "1"
    version.mkdir()
    (version / "saved_model.pb").write_bytes(b"\x0a\xff\xff not a model")
    mounts = {make_readable(tmp_path): "/models/model"}
    with started(client, image, "--max_num_load_retries=0", mounts=mounts) as server:
        assert server.wait_exit() == 255
        (line,) = (line for line in server.log.splitlines() if "Failed to start server. Error:" in line)
        assert "/models/model/1/saved_model.pb" in line
