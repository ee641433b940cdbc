"""TLS, tokens, the admin port and origins of whole servers; one of each transport, with all of it."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from app.options import TRANSPORTS
from tests.conftest import StartServer
from tests.security.test_tls import mounted
from tests.support.certificates import Authority, Secret, ssl_config
from tests.support.process import REPOSITORY, ServerProcess, accepts, free_port, wait_until

TOKENS = """
token { name: "app" value: "predict-token" allow: PREDICT }
token { name: "ops" value: "ops-token" allow: [STATUS, ADMIN] }
"""
PREDICT, OPS = [("authorization", "Bearer predict-token")], [("x-api-key", "ops-token")]
BODY = '{"instances": [2.0]}'


@dataclass
class Secured:
    """A server with gRPC over TLS, REST over mutual TLS, tokens, an admin port and one origin."""

    process: ServerProcess
    admin_port: int
    secret: Secret
    tokens: Path
    flags: list[str]
    authority: Authority

    def connection(self, name: str = "client") -> http.client.HTTPSConnection:
        """To the REST port, with the certificate of `name`."""
        context = self.authority.client_context(name)
        return http.client.HTTPSConnection("127.0.0.1", self.process.rest_port, timeout=60, context=context)

    def rest(self, path: str, headers: dict[str, str], body: str | None = BODY) -> http.client.HTTPResponse:
        """The answer, its connection closed."""
        connection = self.connection()
        connection.request("GET" if body is None else "POST", path, body, headers)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response

    def predict(self, channel: grpc.Channel, metadata: Any) -> str:
        """The code of a gRPC Predict."""
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return code(stub.Predict, self.process.predict_request([2.0]), metadata)


def code(method: Any, request: Any, metadata: Any) -> str:
    """How a gRPC call ends."""
    try:
        method(request, metadata=metadata, timeout=60, wait_for_ready=True)
    except grpc.RpcError as error:
        failed: Any = error
        return str(failed.code().name)
    return "OK"


@pytest.fixture(scope="module", params=TRANSPORTS)
def secured(
    request: pytest.FixtureRequest,
    half_plus_two: Path,
    tmp_path_factory: pytest.TempPathFactory,
    authority: Authority,
) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("secured")
    secret = Secret(directory / "secret", mounted(authority, "server"))
    names = ("secret/tls.key", "secret/tls.crt", "secret/ca.crt")
    (directory / "grpc.config").write_text(ssl_config(*names))
    (directory / "rest.config").write_text(ssl_config(*names, client_verify=True))
    (directory / "tokens").write_text(TOKENS)
    admin_port = free_port()
    flags = [
        f"--grpc_transport={request.param}",
        f"--ssl_config_file={directory}/grpc.config",
        f"--rest_ssl_config_file={directory}/rest.config",
        f"--auth_tokens_file={directory}/tokens",
        f"--admin_port={admin_port}",
        "--rest_api_enable_cors_support",
        "--cors_allowed_origins=https://a.example",
    ]
    process = ServerProcess(half_plus_two, directory / "server.log", name="half_plus_two", flags=flags)
    try:
        yield Secured(process.wait_ready(), admin_port, secret, directory / "tokens", flags, authority)
        assert "Using SSL credentials" in process.log
        process.terminate()
        assert process.wait_exit() == 0  # the drain knows the admin port and the socket of the probes
    finally:
        process.kill()


def test_rest_needs_a_certificate_and_a_token(secured: Secured) -> None:
    predict = "/v1/models/half_plus_two:predict"
    headers = {"Authorization": "Bearer predict-token", "Origin": "https://a.example"}
    response = secured.rest(predict, headers)
    assert response.status == 200
    assert response.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert secured.rest(predict, {}).status == 401
    assert secured.rest(predict, {"x-api-key": "ops-token"}).status == 403
    assert secured.rest("/v1/models", {"x-api-key": "ops-token"}, None).status == 200
    assert secured.rest("/metrics", {}, None).status == 401
    assert secured.rest("/readyz", {}, None).status == 200
    directory = secured.authority.directory
    pair = (f"{directory}/client.pem", f"{directory}/client.key")
    url = f"https://localhost:{secured.process.rest_port}{predict}"
    answer = requests.post(url, BODY, headers=headers, cert=pair, verify=f"{directory}/ca.pem", timeout=60)
    assert answer.json() == {"predictions": [3.0]}
    plain = http.client.HTTPConnection("127.0.0.1", secured.process.rest_port, timeout=60)
    for connection in (plain, secured.connection("")):
        with pytest.raises((OSError, http.client.HTTPException)):
            _ask(connection)
        connection.close()


def test_a_refusal_leaves_the_connection_usable(secured: Secured) -> None:
    connection, outcomes = secured.connection(), []
    for headers, body in (({}, "x" * 5_000_000), ({"x-api-key": "predict-token"}, BODY)):
        connection.request("POST", "/v1/models/half_plus_two:predict", body, headers)
        response = connection.getresponse()
        outcomes.append((response.status, len(response.read()) > 0))
    connection.close()
    assert outcomes == [(401, True), (200, True)]


def _ask(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/readyz")
    connection.getresponse()


def test_the_health_check_needs_neither(secured: Secured) -> None:
    command = [sys.executable, "-m", "app", "healthcheck", f"--rest_api_port={secured.process.rest_port}"]
    result = subprocess.run(
        [*command, *secured.flags], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (
        0,
        f'port {secured.process.rest_port}, /readyz: HTTP status 200 {{"ready":true}}\n',
    )


def test_grpc_needs_tls_and_a_token(secured: Secured) -> None:
    with secured.authority.channel(secured.process.grpc_port) as channel:
        assert secured.predict(channel, PREDICT) == "OK"
        assert secured.predict(channel, None) == "UNAUTHENTICATED"
        assert secured.predict(channel, OPS) == "PERMISSION_DENIED"
        health = health_pb2_grpc.HealthStub(channel)
        assert code(health.Check, health_pb2.HealthCheckRequest(), None) == "OK"


def test_reloads_and_profiles_are_on_the_admin_port_only(secured: Secured, half_plus_two: Path) -> None:
    reload = model_management_pb2.ReloadConfigRequest()
    model = reload.config.model_config_list.config.add(name="half_plus_two", base_path=str(half_plus_two))
    model.model_platform = "tensorflow"
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "half_plus_two"
    outcomes = []
    for port in (secured.process.grpc_port, secured.admin_port):
        with secured.authority.channel(port) as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            monitor = channel.unary_unary("/tensorflow.ProfilerService/Monitor", bytes, bytes)
            outcomes += [
                code(stub.HandleReloadConfigRequest, reload, OPS),
                code(stub.HandleReloadConfigRequest, reload, PREDICT),
                code(stub.GetModelStatus, status, OPS),
                code(monitor, b"", PREDICT),
                secured.predict(channel, PREDICT),
            ]
    assert outcomes == [
        *("UNIMPLEMENTED", "UNIMPLEMENTED", "OK", "UNIMPLEMENTED", "OK"),
        *("OK", "PERMISSION_DENIED", "OK", "PERMISSION_DENIED", "UNIMPLEMENTED"),
    ]
    # The loopback interface only: another address of this machine is not answered.
    with pytest.raises(OSError, match=r"refused|unreachable"):
        http.client.HTTPConnection("127.0.0.2", secured.admin_port, timeout=60).connect()


def test_new_certificates_and_tokens_are_taken_without_a_restart(secured: Secured) -> None:
    def certificate() -> str:
        with secured.authority.channel(secured.process.grpc_port) as channel:
            assert secured.predict(channel, PREDICT) == "OK"
        connection = secured.connection()
        connection.connect()
        found: Any = connection.sock.getpeercert()
        connection.close()
        return str(dict(pair for entry in found["subject"] for pair in entry)["commonName"])

    kept = secured.connection()  # open through all of it
    ready = {"Authorization": "Bearer predict-token"}
    predict = "/v1/models/half_plus_two:predict"
    kept.request("POST", predict, BODY, ready)
    assert kept.getresponse().read() == b'{"predictions":[3.0]}'
    assert certificate() == "server"
    half = {**mounted(secured.authority, "server"), "tls.key": b"half"}
    secured.secret.swap(half)
    secured.tokens.write_text('token { value: "unfini')
    for flag in ("ssl_config_file", "rest_ssl_config_file", "auth_tokens_file"):
        secured.process.wait_log(f"--{flag}: what was read before stays in force.")
    assert certificate() == "server"
    secured.secret.swap(mounted(secured.authority, "other"))
    temporary = secured.tokens.with_suffix(".new")
    temporary.write_text(TOKENS + 'token { value: "newcomer" allow: PREDICT }')
    os.replace(temporary, secured.tokens)
    wait_until(lambda: certificate() == "other", "the new certificate")
    wait_until(lambda: secured.rest(predict, {"x-api-key": "newcomer"}).status == 200, "the new token")
    kept.request("POST", predict, BODY, ready)
    assert kept.getresponse().status == 200
    kept.close()
    for secret in ("predict-token", "ops-token", "newcomer", "unfini", "BEGIN"):
        assert secret not in secured.process.log
    assert secured.process.log.count("--ssl_config_file: what was read before") == 1


def test_reloading_can_be_switched_off(start_server: StartServer, half_plus_two: Path) -> None:
    server = start_server(half_plus_two, flags=["--enable_reload_config=false"]).wait_ready()
    request = model_management_pb2.ReloadConfigRequest()
    assert code(server.models.HandleReloadConfigRequest, request, None) == "UNIMPLEMENTED"
    assert server.predict([2.0]).status_code == 200


def test_a_pair_that_does_not_match_fails_the_start(
    start_server: StartServer, half_plus_two: Path, tmp_path: Path, authority: Authority
) -> None:
    file = tmp_path / "ssl.config"
    file.write_text(ssl_config(authority.directory / "other.key", authority.directory / "server.pem"))
    server = start_server(half_plus_two, flags=[f"--ssl_config_file={file}"])
    assert server.wait_exit() == 255
    assert (
        f"Failed to start server. Error: INVALID_ARGUMENT: {file}: server_key does not belong to server_cert."
    ) in server.log


def test_a_taken_admin_port_fails_the_start(start_server: StartServer, half_plus_two: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        server = start_server(half_plus_two, flags=[f"--admin_port={port}"])
        assert server.wait_exit() == 255
    assert f"Cannot listen on port {port}: " in server.log
    assert "choose another port with --admin_port" in server.log
    assert not accepts(server.grpc_port)
