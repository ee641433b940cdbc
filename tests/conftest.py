"""Fixtures that several directories of tests share."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from app.options import TRANSPORTS
from tests.support import models
from tests.support.certificates import Authority
from tests.support.process import ServerProcess
from tests.support.stores import CREDENTIALS, Proxy, S3Server, WebServer

# Examples are not timed: machines that run the tests are shared.
settings.register_profile("ferry", deadline=None, print_blob=True)
settings.load_profile("ferry")

StartServer = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def half_plus_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path with version 1 of y = x / 2 + 2. Not to be changed by a test."""
    base_path = tmp_path_factory.mktemp("half_plus_two")
    models.save_half_plus(base_path / "1", 2.0)
    return base_path


@pytest.fixture(scope="session")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path with a model whose run takes as long as its input says."""
    base_path = tmp_path_factory.mktemp("busy")
    models.save_busy(base_path / "1")
    return base_path


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that has issued `server`, `other` (for servers too) and `client`."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    for name in ("server", "other", "client"):
        authority.issue(name)
    return authority


@pytest.fixture(scope="session")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path with a model whose runs end when a test says so: see `tests.support.gate`."""
    base_path = tmp_path_factory.mktemp("gated")
    models.save_gated(base_path / "1")
    return base_path


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers (arguments of `ServerProcess` without the log) and ends them after the test."""
    started: list[ServerProcess] = []
    numbers = itertools.count()

    def start(base_path: Path | str, **arguments: Any) -> ServerProcess:
        server = ServerProcess(base_path, tmp_path / f"server-{next(numbers)}.log", **arguments)
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def shared_server(half_plus_two: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One running server of half_plus_two, for tests that only ask."""
    log = tmp_path_factory.mktemp("shared") / "server.log"
    server = ServerProcess(half_plus_two, log, name="half_plus_two")
    try:
        yield server.wait_ready()
    finally:
        server.kill()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server."""
    server = S3Server(tmp_path_factory.mktemp("s3") / "server.log")
    yield server
    server.stop()


@pytest.fixture
def aws_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in this process's environment, where the driver looks for them."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """The name of a new bucket."""
    name = f"ferry-{uuid.uuid4().hex}"
    s3.client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    """A proxy before the S3 server that can be told to fail."""
    proxy = Proxy(s3.endpoint)
    yield proxy
    proxy.close()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    """A web server for the directory `web` of the test."""
    (tmp_path / "web").mkdir()
    server = WebServer(tmp_path / "web")
    yield server
    server.close()


@pytest.fixture(scope="session", params=TRANSPORTS)
def grpc_server(
    request: pytest.FixtureRequest, half_plus_two: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """The same for tests that ask over gRPC: one server for each transport."""
    flags = [f"--grpc_transport={request.param}"]
    log = tmp_path_factory.mktemp("shared") / "server.log"
    server = ServerProcess(half_plus_two, log, name="half_plus_two", flags=flags)
    try:
        yield server.wait_ready()
    finally:
        server.kill()
