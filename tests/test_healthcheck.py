from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from app import healthcheck
from app.options import Options
from tests.support.process import free_port


class Rest:
    """An HTTP server that gives one answer and keeps the paths asked for."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b""
        self.paths: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.paths.append(self.path)
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]

    def states(self, *states: str) -> None:
        entries = [{"version": str(number), "state": state} for number, state in enumerate(states, 1)]
        self.body = json.dumps({"model_version_status": entries}).encode()


@pytest.fixture
def rest() -> Iterator[Rest]:
    rest = Rest()
    thread = threading.Thread(target=rest.server.serve_forever, args=(0.01,))
    thread.start()
    yield rest
    rest.server.shutdown()
    thread.join()
    rest.server.server_close()


def test_an_available_version_is_healthy(rest: Rest) -> None:
    rest.states("END", "AVAILABLE")
    healthy, text = healthcheck.check(Options(rest_api_port=rest.port, model_name="m"))
    assert healthy
    assert text == "model m: version 1 END, version 2 AVAILABLE"
    assert rest.paths == ["/v1/models/m"]


def test_a_model_without_an_available_version_is_not(rest: Rest) -> None:
    rest.states("END", "LOADING")
    healthy, text = healthcheck.check(Options(rest_api_port=rest.port, model_name="m"))
    assert not healthy
    assert text == "model m: version 1 END, version 2 LOADING"


def test_an_error_status_is_not(rest: Rest) -> None:
    rest.status = 404
    assert healthcheck.check(Options(rest_api_port=rest.port, model_name="m")) == (
        False,
        "model m: HTTP status 404",
    )


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"model_version_status": [1]}', b"\xff"])
def test_something_else_on_the_port_is_not(rest: Rest, body: bytes) -> None:
    rest.body = body
    healthy, text = healthcheck.check(Options(rest_api_port=rest.port))
    assert not healthy
    assert text == f"port {rest.port} answers, but not as a model server"


def test_the_model_name_is_quoted(rest: Rest) -> None:
    rest.states("AVAILABLE")
    assert healthcheck.check(Options(rest_api_port=rest.port, model_name="a/b ü"))[0]
    assert rest.paths == ["/v1/models/a%2Fb%20%C3%BC"]


@pytest.mark.parametrize("port", [0, 99999])
def test_nothing_on_the_port_is_not_healthy(port: int) -> None:
    healthy, text = healthcheck.check(Options(rest_api_port=port or free_port()))
    assert not healthy
    assert text.startswith("the server does not answer: ")


def test_without_rest_the_grpc_port_is_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert healthcheck.check(Options(port=port)) == (True, f"gRPC port {port} answers")
    assert not healthcheck.check(Options(port=port))[0]


def test_without_ports_the_grpc_socket_is_asked(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        options = Options(port=0, grpc_socket_path=path)
        assert healthcheck.check(options) == (True, f"gRPC socket {path} answers")
    assert not healthcheck.check(options)[0]


def test_the_outcome_is_printed_and_is_the_status(rest: Rest, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"--rest_api_port={rest.port}", "--model_name=m"]
    rest.states("AVAILABLE")
    assert healthcheck.main(arguments) == 0
    assert capsys.readouterr() == ("model m: version 1 AVAILABLE\n", "")
    rest.states("END")
    assert healthcheck.main(arguments) == 1
    assert capsys.readouterr() == ("", "model m: version 1 END\n")


@pytest.fixture
def running(rest: Rest) -> Iterator[None]:
    """A process whose command line is that of a server with the port of `rest`."""
    if healthcheck._running_server():
        pytest.skip("another server runs on this machine")
    command = ["tensorflow_model_server", "-c", "print(flush=True); input()", f"--rest_api_port={rest.port}"]
    with subprocess.Popen(
        [*command, "--model_name=running"],
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


@pytest.mark.usefixtures("running")
def test_port_and_name_come_from_the_running_server(rest: Rest) -> None:
    rest.states("AVAILABLE")
    assert healthcheck.main([]) == 0
    assert rest.paths == ["/v1/models/running"]


@pytest.mark.usefixtures("running")
def test_arguments_come_before_those_of_the_running_server(rest: Rest) -> None:
    rest.states("AVAILABLE")
    assert healthcheck.main(["--model_name=other"]) == 0
    assert rest.paths == ["/v1/models/other"]


@pytest.mark.parametrize("argument", ["--rest_api_port=abc", "--nope", "word"])
def test_arguments_it_does_not_understand_are_told(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert healthcheck.main([argument]) == 1
    assert f"does not understand {argument}" in capsys.readouterr().err
