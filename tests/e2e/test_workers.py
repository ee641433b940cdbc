"""`--server_workers=2`: two processes that answer as one server."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import requests
from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2

from app.options import TRANSPORTS
from tests.conftest import StartServer
from tests.support import models
from tests.support.gate import Gate
from tests.support.process import ServerProcess, accepts, wait_until

FLAGS = ["--server_workers=2", "--file_system_poll_wait_seconds=1"]
CONNECTIONS = 24


def page(server: ServerProcess) -> str:
    """The metrics, from whichever worker gets this connection."""
    return requests.get(f"{server.rest}/metrics", timeout=30).text


def value(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    wanted = [f'{label}="{given}"' for label, given in labels.items()]
    return sum(float(number) for given, number in found if all(each in given for each in wanted))


def workers(server: ServerProcess) -> dict[str, int]:
    """The process of each worker that counts, by number."""
    found = re.findall(r'^ferry_worker_info{pid="(\d+)",worker="(\d+)"} 1', page(server), re.MULTILINE)
    return {worker: int(pid) for pid, worker in found}


def wait_for_all(server: ServerProcess) -> ServerProcess:
    """Wait until both workers listen: a load takes each its own time."""
    server.wait_ready()
    wait_until(lambda: server.log.count("Exporting HTTP/REST API") >= 2, "both workers serve")
    return server


@pytest.fixture(scope="module")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With version 1, which adds 1; tests add higher ones."""
    base_path = tmp_path_factory.mktemp("workers") / "model"
    models.save_half_plus(base_path / "1", 1)
    return base_path


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(
    request: pytest.FixtureRequest, base_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """Two workers, over each transport in turn."""
    log = tmp_path_factory.mktemp("workers") / "server.log"
    flags = [*FLAGS, f"--grpc_transport={request.param}", "--drain_seconds=60"]
    server = ServerProcess(base_path, log, flags=flags)
    try:
        yield wait_for_all(server)
    finally:
        server.kill()


def grpc_answers(server: ServerProcess, count: int) -> list[int]:
    """How long what Predict answers is, on so many connections of their own."""
    answers = []
    for _ in range(count):
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
            call = channel.unary_unary(
                "/tensorflow.serving.PredictionService/Predict",
                lambda message: message.SerializeToString(),
                lambda content: content,
            )
            answers.append(len(call(server.predict_request([0.0]), timeout=30)))
    return answers


def test_connections_of_both_protocols_spread_and_the_metrics_are_one_set(server: ServerProcess) -> None:
    def counts() -> tuple[float, float]:
        text = page(server)
        ok = value(text, "tensorflow_serving_request_count_total", status="OK")
        return ok, value(text, "ferry_worker_requests_total")

    def each() -> list[float]:
        text = page(server)
        return [value(text, "ferry_worker_requests_total", worker=worker) for worker in "01"]

    before, each_before = counts(), each()
    for _ in range(CONNECTIONS):
        assert server.predict([0.0]).ok
    wait_until(lambda: counts() == (before[0] + CONNECTIONS, before[1] + CONNECTIONS), "REST is counted")
    rest = [now - then for now, then in zip(each(), each_before, strict=True)]
    assert all(rest), "both workers had some"
    grpc_answers(server, CONNECTIONS)
    wait_until(lambda: counts()[0] == before[0] + 2 * CONNECTIONS, "gRPC is counted")
    both = [now - then for now, then in zip(each(), each_before, strict=True)]
    assert all(now > then for now, then in zip(both, rest, strict=True)), "both had some of gRPC too"
    text = page(server)
    assert len(workers(server)) == 2
    assert value(text, "process_resident_memory_bytes") > 4e8, "of both"
    assert "ferry_ready 1.0" in text


class Clients:
    """REST and gRPC clients without pause, a connection for each request, that check every answer."""

    def __init__(self, server: ServerProcess, count: int = 2) -> None:
        self.errors: list[str] = []
        self.answers = 0
        self.sums: list[float] = []
        self._server = server
        self._stop = threading.Event()
        works = [self._predict, self._status][:count]
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in works]
        for thread in self._threads:
            thread.start()

    def _predict(self) -> None:
        answer = self._server.predict([0.0])
        if not answer.ok:
            self.errors.append(answer.text)
        self.answers += 1

    def _status(self) -> None:
        """What one worker calls available, whoever is asked next has."""
        states = self._server.states()
        available = [version for version, state in states.items() if state == "AVAILABLE"]
        if not available:
            self.errors.append(f"nothing is available: {states}")
        newest = max(available, default=1)
        url = self._server.url(f"/versions/{newest}:predict")
        for _ in range(4):
            answer = requests.post(url, json={"instances": [0.0]}, timeout=30)
            if not answer.ok and newest in _available(self._server):
                self.errors.append(f"{newest} of {states}: {answer.text}")
        total = value(page(self._server), "tensorflow_serving_request_count_total", status="OK")
        self.sums.append(total)

    def _run(self, work: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                work()
            except requests.RequestException as error:
                self.errors.append(repr(error))

    def stop(self) -> None:
        """Stop and wait for the last answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def _available(server: ServerProcess) -> set[int]:
    return {version for version, state in server.states().items() if state == "AVAILABLE"}


def test_versions_are_swapped_together_and_no_request_is_lost(server: ServerProcess, base_path: Path) -> None:
    first = max(_available(server))
    clients = Clients(server)
    try:
        for version in (first + 1, first + 2):
            models.save_half_plus(base_path / str(version), version)
            wait_until(lambda: _available(server) == {version}, f"{version} took over")  # noqa: B023
            for _ in range(8):
                assert server.predict([0.0]).json() == {"predictions": [version]}
    finally:
        clients.stop()
    assert clients.errors == []
    assert clients.sums == sorted(clients.sums), "a sum never goes back"


def test_a_reload_reaches_all_workers_or_none(server: ServerProcess, base_path: Path) -> None:
    def configuration(*names: str, label: int = 0) -> model_management_pb2.ReloadConfigRequest:
        request = model_management_pb2.ReloadConfigRequest()
        for name in names:
            entry = request.config.model_config_list.config.add(name=name, base_path=str(base_path))
            entry.model_platform = "tensorflow"
            if label:
                entry.version_labels["stable"] = label
        return request

    newest = max(_available(server))
    reload = server.models.HandleReloadConfigRequest
    reload(configuration("model", "other"), timeout=60)
    reload(configuration("model", "other", label=newest), timeout=60)  # at once: all have it
    for _ in range(12):  # connections of their own: both workers are asked
        answer = requests.post(
            f"{server.rest}/v1/models/other/labels/stable:predict", json={"instances": [0.0]}, timeout=30
        )
        assert answer.json() == {"predictions": [newest]}
    with pytest.raises(grpc.RpcError) as refused:
        reload(configuration("model", label=77), timeout=60)
    assert "not currently available for inference" in str(refused.value)
    listed = {requests.get(f"{server.rest}/v1/models", timeout=30).text for _ in range(12)}
    assert len(listed) == 1
    assert "other" in listed.pop()
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "other"
    (status,) = server.models.GetModelStatus(request, timeout=30).model_version_status
    assert (status.version, status.state) == (newest, status.AVAILABLE)


def test_a_worker_that_dies_comes_back_and_the_other_goes_on(server: ServerProcess) -> None:
    served = {each["name"] for each in requests.get(f"{server.rest}/v1/models", timeout=30).json()["models"]}
    wait_until(lambda: len(workers(server)) == 2, "both count")
    before = workers(server)
    counted = value(page(server), "tensorflow_serving_request_count_total", status="OK")
    clients = Clients(server, count=1)
    try:
        wait_until(lambda: clients.answers > 20, "the clients run")
        os.kill(before["0"], signal.SIGKILL)
        server.wait_log(f"Worker 0 (process {before['0']}) died; starting it again.")
        answered = clients.answers
        wait_until(lambda: clients.answers > answered + 20, "the other goes on")
        wait_until(lambda: server.log.count("Exporting HTTP/REST API") >= 3, "it is back")
        wait_until(lambda: workers(server).get("0") not in (None, before["0"]), "it counts")
        wait_until(lambda: len(workers(server)) == 2, "both count")
    finally:
        clients.stop()
    assert all("Connection" in error for error in clients.errors), "only what it worked on is lost"
    assert len(clients.errors) <= 1 + 1, "one in flight, and perhaps one that waited for it"
    assert workers(server)["1"] == before["1"]
    assert value(page(server), "tensorflow_serving_request_count_total", status="OK") >= counted
    # It begins with the configuration in force, not with the flags' own.
    for _ in range(12):
        names = {
            each["name"] for each in requests.get(f"{server.rest}/v1/models", timeout=30).json()["models"]
        }
        assert names == served
    assert f"[{before['1']}] " in server.log, "lines tell their process"


def test_sigterm_drains_both(start_server: StartServer, gated: Path, tmp_path: Path) -> None:
    flags = [*FLAGS, "--drain_seconds=120", "--rest_api_timeout_in_ms=0"]
    server = wait_for_all(start_server(gated, flags=flags))
    request = Gate(server, tmp_path / "gate")
    server.terminate()
    wait_until(
        lambda: not accepts(server.rest_port) and not accepts(server.grpc_port), "the ports are closed"
    )
    assert server.process.poll() is None
    request.open()
    assert request.answers == [request.expected]
    assert server.wait_exit() == 0
