"""How the container ends, and what it says when it cannot serve."""

from __future__ import annotations

import shutil
from pathlib import Path

import docker
import pytest

from tests.container.containers import MODEL, QUICK_HEALTH, Server, make_readable, started
from tests.support.process import wait_until

pytestmark = pytest.mark.container


def stop(server: Server) -> int:
    """`docker stop` with its usual ten seconds, after which it kills: the exit status is then 137."""
    server.container.stop(timeout=10)
    return int(server.state["ExitCode"])


def test_docker_stop_ends_it_in_order(client: docker.DockerClient, image: str, sample: Path) -> None:
    mounts = {sample: f"/models/{MODEL}"}
    with started(client, image, mounts=mounts, environment={"MODEL_NAME": MODEL}) as server:
        server.wait_ready()
        assert stop(server) == 0


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
        # Checks are a second apart and so are polls: by the fifth check there were several.
        wait_until(lambda: len(server.health["Log"]) >= 5, "five health checks")
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
