"""Clients that never pause, while versions, labels and the configuration change twenty times."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import requests
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2

from tests.conftest import StartServer
from tests.support import models
from tests.support.process import ServerProcess, wait_until

VERSIONS = 20


@dataclass(frozen=True)
class Answer:
    """What one request got: when it was sent and answered, by which name, and the version that answered."""

    sent: float
    received: float
    name: str
    version: float


class Clients:
    """A REST and a gRPC client for each way to name the version, in threads of their own."""

    def __init__(self, server: ServerProcess) -> None:
        self.answers: list[Answer] = []
        self.errors: list[object] = []
        self._stop = threading.Event()
        kinds = {
            "latest": (self._rest(server, ""), self._grpc(server, "")),
            "stable": (self._rest(server, "/labels/stable"), self._grpc(server, "stable")),
        }
        self._threads = [
            threading.Thread(target=self._run, args=(name, send))
            for name, senders in kinds.items()
            for send in senders
        ]
        for thread in self._threads:
            thread.start()

    def _rest(self, server: ServerProcess, path: str) -> Callable[[], float]:
        session, url = requests.Session(), server.url(f"{path}:predict")

        def send() -> float:
            answer = session.post(url, json={"instances": [0.0]}, timeout=30)
            answer.raise_for_status()
            return float(answer.json()["predictions"][0])

        return send

    def _grpc(self, server: ServerProcess, label: str) -> Callable[[], float]:
        stub, request = server.prediction, server.predict_request([0.0])
        if label:
            request.model_spec.version_label = label

        def send() -> float:
            return float(stub.Predict(request, timeout=30).outputs["y"].float_val[0])

        return send

    def _run(self, name: str, send: Callable[[], float]) -> None:
        while not self._stop.is_set():
            sent = time.monotonic()
            try:
                version = send()
                self.answers.append(Answer(sent, time.monotonic(), name, version))
            except Exception as error:
                self.errors.append(error)

    def stop(self) -> None:
        """Stop sending and wait for the last answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def server(start_server: StartServer, tmp_path: Path) -> ServerProcess:
    """Serves version 1; the others wait in `staged` beside the base path. The latest two are kept."""
    models.save_half_plus(tmp_path / "model" / "1", 1)
    for version in range(2, VERSIONS + 1):
        models.save_half_plus(tmp_path / "staged" / str(version), version)
    config = tmp_path / "models.config"
    served = configuration(tmp_path, 0, None).config
    config.write_text(text_format.MessageToString(served))
    return start_server("", flags=[f"--model_config_file={config}"]).wait_ready()


def configuration(directory: Path, turn: int, stable: int | None) -> model_management_pb2.ReloadConfigRequest:
    """The served model with its label, and a second model that comes and goes."""
    request = model_management_pb2.ReloadConfigRequest()
    names = ["model", "other"] if turn % 2 else ["model"]
    for name in names:
        entry = request.config.model_config_list.config.add(name=name, model_platform="tensorflow")
        entry.base_path = str(directory / "model")
        entry.model_version_policy.latest.num_versions = 2
    if stable is not None:
        request.config.model_config_list.config[0].version_labels["stable"] = stable
    return request


def test_nobody_notices_twenty_changes(server: ServerProcess, tmp_path: Path) -> None:
    reload = server.models.HandleReloadConfigRequest
    reload(configuration(tmp_path, 0, 1), timeout=60)
    begun, switched = {1: 0.0}, {"latest": {1: 0.0}, "stable": {1: 0.0}}
    clients = Clients(server)
    try:
        for version in range(2, VERSIONS + 1):
            begun[version] = time.monotonic()
            (tmp_path / "staged" / str(version)).rename(tmp_path / "model" / str(version))
            wait_until(partial(is_available, server, version), f"version {version} serves")
            switched["latest"][version] = time.monotonic()
            reload(configuration(tmp_path, version, version), timeout=60)
            switched["stable"][version] = time.monotonic()
    finally:
        clients.stop()
    assert clients.errors == []
    for name, switches in switched.items():
        answers = [answer for answer in clients.answers if answer.name == name]
        assert {answer.version for answer in answers} >= set(range(2, VERSIONS)), name
        for answer in answers:
            oldest = max(version for version, at in switches.items() if at <= answer.sent)
            newest = max(version for version, at in begun.items() if at <= answer.received)
            assert oldest <= answer.version <= newest, f"{answer} after the switch to {oldest}"


def is_available(server: ServerProcess, version: int) -> bool:
    return server.states().get(version) == "AVAILABLE"
