from __future__ import annotations

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


@pytest.fixture
def rest() -> Iterator[Rest]:
    rest = Rest()
    thread = threading.Thread(target=rest.server.serve_forever, args=(0.01,))
    thread.start()
    yield rest
    rest.server.shutdown()
    thread.join()
    rest.server.server_close()


def test_a_server_that_is_ready_is_healthy(rest: Rest) -> None:
    rest.body = b'{"ready":true}'
    assert healthcheck.check(Options(rest_api_port=rest.port)) == (
        True,
        f'port {rest.port}, /readyz: HTTP status 200 {{"ready":true}}',
    )
    assert rest.paths == ["/readyz"]


def test_one_that_is_not_is_not_and_the_answer_says_why(rest: Rest) -> None:
    rest.status = 503
    rest.body = b'{"ready":false}' + b"\xff" * 10_000
    healthy, text = healthcheck.check(Options(rest_api_port=rest.port))
    assert not healthy
    assert '/readyz: HTTP status 503 {"ready":false}\N{REPLACEMENT CHARACTER}' in text
    assert len(text) < 2100


def test_with_a_config_file_it_has_to_be_up_only(rest: Rest) -> None:
    options = Options(rest_api_port=rest.port, model_config_file="/x")
    assert healthcheck.check(options)[0]
    assert rest.paths == ["/livez"]
    rest.status = 404
    assert not healthcheck.check(options)[0]


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
    arguments = [f"--rest_api_port={rest.port}"]
    assert healthcheck.main(arguments) == 0
    assert capsys.readouterr() == (f"port {rest.port}, /readyz: HTTP status 200 \n", "")
    rest.status = 503
    assert healthcheck.main(arguments) == 1
    assert capsys.readouterr() == ("", f"port {rest.port}, /readyz: HTTP status 503 \n")


_PROGRAM = "print(flush=True); input()"


@pytest.fixture(
    params=[
        ("tensorflow_model_server", "-c", _PROGRAM),
        ("python", "-c", _PROGRAM, "/usr/bin/ferry", "serve"),
    ]
)
def running(request: pytest.FixtureRequest, rest: Rest) -> Iterator[None]:
    """A process whose command line is that of a server with the port of `rest`."""
    if healthcheck._running_server():
        pytest.skip("another server runs on this machine")
    with subprocess.Popen(
        [*request.param, f"--rest_api_port={rest.port}", "--model_name=running"],
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
def test_the_port_comes_from_the_running_server(rest: Rest) -> None:
    assert healthcheck.main([]) == 0
    assert rest.paths == ["/readyz"]


@pytest.mark.usefixtures("running")
def test_arguments_come_before_those_of_the_running_server(rest: Rest) -> None:
    assert healthcheck.main(["--model_config_file=other"]) == 0
    assert rest.paths == ["/livez"]


@pytest.mark.parametrize("argument", ["--rest_api_port=abc", "--nope", "word"])
def test_arguments_it_does_not_understand_are_told(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert healthcheck.main([argument]) == 1
    assert f"does not understand {argument}" in capsys.readouterr().err
