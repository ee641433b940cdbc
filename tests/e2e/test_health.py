"""Probes, the list of models, gRPC health and reflection of a running server."""

from __future__ import annotations

import http.client
import json
import queue
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from app.options import TRANSPORTS
from tests.conftest import StartServer
from tests.support import models
from tests.support.gate import Gate
from tests.support.process import ServerProcess, wait_until

SERVING, NOT_SERVING = 1, 2


def health(server: ServerProcess) -> Any:
    return health_pb2_grpc.HealthStub(server.channel)


def check(server: ServerProcess, service: str = "") -> int:
    return int(health(server).Check(health_pb2.HealthCheckRequest(service=service), timeout=30).status)


def watch(server: ServerProcess) -> queue.SimpleQueue[int | None]:
    """What Watch tells; None is the end."""
    found: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    call = health(server).Watch(health_pb2.HealthCheckRequest(), timeout=300)

    def read() -> None:
        try:
            for answer in call:
                found.put(answer.status)
        except grpc.RpcError:
            pass
        found.put(None)

    threading.Thread(target=read, daemon=True).start()
    return found


def readyz(server: ServerProcess) -> tuple[int, Any]:
    answer = requests.get(f"{server.rest}/readyz", timeout=30)
    return answer.status_code, answer.json()


def config(tmp_path: Path, **base_paths: Path) -> str:
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}'
        for name, path in base_paths.items()
    )
    file = tmp_path / "new.config"
    file.write_text(f"model_config_list {{ {entries} }}")
    file.rename(tmp_path / "models.config")
    return f"--model_config_file={tmp_path / 'models.config'}"


def test_a_model_that_is_missing_makes_the_server_unready_until_it_is_there(
    start_server: StartServer, half_plus_two: Path, tmp_path: Path
) -> None:
    flags = [config(tmp_path, a=half_plus_two), "--model_config_file_poll_wait_seconds=1"]
    server = start_server(half_plus_two, name="a", flags=flags).wait_ready()
    told = watch(server)
    assert told.get(timeout=60) == SERVING
    assert readyz(server) == (200, {"ready": True})
    assert check(server) == check(server, "tensorflow.serving.ModelService") == SERVING

    absent = tmp_path / "absent"
    config(tmp_path, a=half_plus_two, b=absent)
    assert told.get(timeout=60) == NOT_SERVING
    assert check(server) == check(server, "tensorflow.serving.PredictionService") == NOT_SERVING
    error = f"no version was found in {absent}"
    missing = [{"model": "b", "version": None, "state": None, "error": error}]
    assert readyz(server) == (503, {"ready": False, "draining": False, "missing": missing})
    assert requests.get(f"{server.rest}/livez", timeout=30).text == "ok"
    assert server.predict([1.0]).json() == {"predictions": [2.5]}
    listed = requests.get(f"{server.rest}/v1/models", timeout=30).json()["models"]
    assert [(model["name"], len(model["model_version_status"])) for model in listed] == [("a", 1), ("b", 0)]

    models.save_half_plus(absent / "1")
    assert told.get(timeout=60) == SERVING
    assert readyz(server) == (200, {"ready": True})


def test_probes_are_not_counted(shared_server: ServerProcess) -> None:
    def counted() -> list[str]:
        page = requests.get(f"{shared_server.rest}/metrics", timeout=30).text
        return [line for line in page.splitlines() if line.startswith("tensorflow_serving_request_count")]

    before = counted()
    for path in ("/livez", "/readyz", "/metrics"):
        for method in ("GET", "HEAD"):
            assert requests.request(method, shared_server.rest + path, timeout=30).status_code == 200
    assert counted() == before
    assert requests.get(shared_server.url(), timeout=30).ok
    assert counted() != before, "what is counted is"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_drain_is_told_to_probes_while_requests_finish(
    start_server: StartServer, gated: Path, tmp_path: Path, transport: str
) -> None:
    flags = ["--drain_seconds=120", "--rest_api_timeout_in_ms=0", f"--grpc_transport={transport}"]
    server = start_server(gated, flags=flags).wait_ready()
    told = watch(server)
    assert told.get(timeout=60) == SERVING
    # Connections that were made before the drain; each answer in it ends its connection.
    probes = [http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60) for _ in range(2)]
    for probe in probes:
        probe.request("GET", "/readyz")
        assert json.loads(probe.getresponse().read()) == {"ready": True}
    request = Gate(server, tmp_path / "gate")
    server.terminate()
    assert told.get(timeout=60) == NOT_SERVING
    assert told.get(timeout=60) is None
    for probe, path in zip(probes, ("/readyz", "/v1/models"), strict=True):
        probe.request("GET", path)
        answer = probe.getresponse()
        body = json.loads(answer.read())
        assert answer.getheader("connection") == "close"
        if path == "/readyz":
            assert (answer.status, body) == (503, {"ready": False, "draining": True, "missing": []})
        probe.close()
    assert request.answers == [], "the request is still running"
    request.open()
    assert request.answers == [request.expected]
    assert server.wait_exit() == 0


def test_an_open_watch_and_idle_connections_do_not_hold_up_the_end(
    start_server: StartServer, half_plus_two: Path
) -> None:
    server = start_server(half_plus_two, flags=["--drain_seconds=600"]).wait_ready()
    told = watch(server)
    assert told.get(timeout=60) == SERVING
    with requests.Session() as session:
        assert session.get(server.url(), timeout=30).ok
        server.prediction.Predict(server.predict_request([1.0]), timeout=30)
        server.terminate()
        assert server.wait_exit() == 0  # it waits for less than the drain's bound
    assert told.get(timeout=60) == NOT_SERVING


def test_reflection_lists_what_is_served(shared_server: ServerProcess) -> None:
    server = shared_server
    make: Any = ProtoReflectionDescriptorDatabase
    assert list(make(server.channel).get_services()) == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "tensorflow.ProfilerService",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    ]
    # A name that reflection lists is one that the health service knows.
    for service in make(server.channel).get_services():
        assert check(server, service) == SERVING


def test_flags_switch_health_and_reflection_off(start_server: StartServer, half_plus_two: Path) -> None:
    flags = ["--enable_grpc_healthcheck_service=false", "--enable_grpc_reflection=false"]
    server = start_server(half_plus_two, flags=flags).wait_ready()
    with pytest.raises(grpc.RpcError) as raised:
        check(server)
    error: Any = raised.value
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    make: Any = ProtoReflectionDescriptorDatabase
    with pytest.raises(grpc.RpcError) as raised:
        list(make(server.channel).get_services())
    error = raised.value
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    wait_until(lambda: readyz(server)[0] == 200, "REST is not concerned")
