"""What breaks around the server, and what it then does: each fault has one behaviour."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from app.options import TRANSPORTS
from tests.conftest import StartServer
from tests.support import models
from tests.support.process import REPOSITORY, ServerProcess, wait_until

NO_RETRY = "--max_num_load_retries=0"


class Clients:
    """A REST and a gRPC client that never pause; what they got, and when."""

    def __init__(self, server: ServerProcess) -> None:
        self.good: list[float] = []
        self.connection_errors = 0
        self.other: list[object] = []
        self._server = server
        self._over = threading.Event()
        kinds = (self._rest, self._grpc)
        self._threads = [threading.Thread(target=self._run, args=(kind,)) for kind in kinds]
        for thread in self._threads:
            thread.start()

    def _run(self, send: Any) -> None:
        while not self._over.is_set():
            try:
                send()
                self.good.append(time.monotonic())
            except requests.ConnectionError:
                self.connection_errors += 1
            except grpc.RpcError as error:
                status: Any = error
                if status.code() is grpc.StatusCode.UNAVAILABLE:
                    self.connection_errors += 1
                else:
                    self.other.append(status)
            except Exception as error:
                self.other.append(error)

    def _rest(self) -> None:
        answer = self._server.predict([1.0])
        assert (answer.status_code, answer.json()) == (200, {"predictions": [2.5]})

    def _grpc(self) -> None:
        answer = self._server.prediction.Predict(self._server.predict_request([1.0]), timeout=30)
        assert list(answer.outputs["y"].float_val) == [2.5]

    def since(self, moment: float) -> int:
        """How many good answers came since `moment`."""
        return sum(at > moment for at in self.good)

    def stop(self) -> None:
        """Stop and wait for the last answers."""
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_kill_9_of_the_worker_under_load_is_seen_as_connection_errors_only(
    start_server: StartServer, half_plus_two: Path, transport: str
) -> None:
    server = start_server(half_plus_two, flags=[f"--grpc_transport={transport}"]).wait_ready()
    clients = Clients(server)
    try:
        wait_until(lambda: len(clients.good) > 20, "clients are served")
        killed = time.monotonic()
        os.kill(server.worker_pid(), signal.SIGKILL)
        server.wait_log("The serving process died; starting it again.")
        wait_until(lambda: clients.since(killed + 0.5) > 20, "clients are served again")
    finally:
        clients.stop()
    assert clients.other == []
    assert clients.connection_errors


def test_a_version_that_kills_the_server_is_given_up_and_the_one_before_serves(
    start_server: StartServer, half_plus_two: Path, tmp_path: Path
) -> None:
    base_path = tmp_path / "model"
    shutil.copytree(half_plus_two, base_path)
    server = start_server(base_path).wait_ready()
    models.save_crashing(tmp_path / "crashing").rename(base_path / "2")
    server.wait_log("It loaded {name: model version: 2}. {name: model version: 2} will not be loaded again.")
    server.wait_log("Servable {name: model version: 2} is not loaded: ABORTED: The server died 2 times")
    server.wait_ready()
    wait_until(lambda: accepts_and_answers(server), "version 1 serves")
    answer = requests.get(server.url("/versions/2"), timeout=30).json()["model_version_status"][0]
    assert answer["state"] == "END"
    assert f"while it loaded this version from {base_path / '2'}" in answer["status"]["error_message"]
    models.save_half_plus(base_path / "3", 3.0)  # mended, under another number
    wait_until(lambda: server.states().get(3) == "AVAILABLE", "version 3 serves")
    server.terminate()
    assert server.wait_exit() == 0


def accepts_and_answers(server: ServerProcess) -> bool:
    try:
        return bool(server.predict([1.0]).json() == {"predictions": [2.5]})
    except requests.ConnectionError:
        return False


def test_a_death_in_a_request_is_told_with_its_model(start_server: StartServer, busy: Path) -> None:
    server = start_server(busy, flags=["--rest_api_timeout_in_ms=0"]).wait_ready()

    def send() -> None:
        with pytest.raises(requests.ConnectionError):
            requests.post(server.url(":predict"), json={"inputs": 50_000_000}, timeout=300)

    request = threading.Thread(target=send)
    request.start()
    in_flight = 'ferry_requests_in_flight{api="predict",entrypoint="REST"} 1.0'
    wait_until(lambda: in_flight in requests.get(f"{server.rest}/metrics", timeout=30).text, "it runs")
    wait_until(lambda: cpu_grows(server), "the model runs")
    os.kill(server.worker_pid(), signal.SIGABRT)
    request.join()
    server.wait_log("The serving process died; starting it again. It ran {name: model version: 1}.")
    server.wait_ready()


def cpu_grows(server: ServerProcess) -> bool:
    """Whether the worker has computed for 0.2 s since it was asked for the first time."""
    fields = Path(f"/proc/{server.worker_pid()}/stat").read_text().rpartition(")")[2].split()
    now = int(fields[11]) / os.sysconf("SC_CLK_TCK")
    first = server.__dict__.setdefault("cpu_at_first", now)
    return bool(now > first + 0.2)


def test_a_load_without_memory_never_stops_the_version_that_serves(
    start_server: StartServer, tmp_path: Path
) -> None:
    base_path = tmp_path / "model"
    models.save_half_plus(base_path / "1", 2.0)
    server = start_server(base_path, flags=[NO_RETRY]).wait_ready()
    worker = server.worker_pid()
    size = int(re.search(r"VmSize:\s+(\d+)", Path(f"/proc/{worker}/status").read_text())[1]) * 1024  # type: ignore[index]
    resource.prlimit(worker, resource.RLIMIT_AS, (size + (150 << 20), resource.RLIM_INFINITY))
    models.save_large(base_path / "2", 400)
    wait_until(
        lambda: "version: 2} failed: " in server.log or "The serving process died" in server.log,
        "the load has failed, or the system has ended the worker",
    )
    wait_until(lambda: accepts_and_answers(server), "version 1, or what replaced it, serves")


def test_a_base_path_that_cannot_be_read_is_told_and_serving_goes_on(
    start_server: StartServer, half_plus_two: Path, tmp_path: Path
) -> None:
    base_path = tmp_path / "model"
    shutil.copytree(half_plus_two, base_path)
    server = start_server(base_path, flags=[NO_RETRY]).wait_ready()
    (tmp_path / "moved").mkdir()
    base_path.rename(tmp_path / "moved" / "model")
    base_path.write_text("no directory")
    server.wait_log("is a file, not a directory")
    assert server.predict([1.0]).json() == {"predictions": [2.5]}
    base_path.unlink()
    (tmp_path / "moved" / "model").rename(base_path)
    models.save_half_plus(base_path / "2", 3.0)
    wait_until(lambda: server.states().get(2) == "AVAILABLE", "what was repaired is found")


@pytest.mark.parametrize("limit", ["instances", "watches"])
def test_without_inotify_versions_are_found_by_polling(
    start_server: StartServer, half_plus_two: Path, tmp_path: Path, limit: str
) -> None:
    # The limits of a user name space of its own concern nobody else.
    lowered = f'echo 0 > /proc/sys/user/max_inotify_{limit} && exec "$@"'
    prefix = ["unshare", "--user", "--map-root-user", "sh", "-c", lowered, "sh"]
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no user name space can be made here")
    base_path = tmp_path / "model"
    shutil.copytree(half_plus_two, base_path)
    server = start_server(base_path, flags=["--file_system_poll_wait_seconds=1"], prefix=prefix).wait_ready()
    server.wait_log("found by polling only")
    models.save_half_plus(base_path / "2", 3.0)
    wait_until(lambda: server.states().get(2) == "AVAILABLE", "version 2 is found")
    assert server.predict([1.0]).json() == {"predictions": [3.5]}
    assert server.log.count("found by polling only") == 1


def without_rights_of_root() -> list[str]:
    """What a command begins with so that modes of files count for it, whoever runs the tests."""
    if os.getuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root reads everything, and setpriv is not there")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", "--"]


def test_directories_without_permission_are_told_once_and_other_models_go_on(
    start_server: StartServer, half_plus_two: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    for name in ("closed", "other"):
        shutil.copytree(half_plus_two, tmp_path / name)
    config = tmp_path / "models.config"
    one = 'config {{ name: "{0}" base_path: "{1}" model_platform: "tensorflow" }} '
    named = [("model", half_plus_two), ("closed", closed), ("other", tmp_path / "other")]
    config.write_text(f"model_config_list {{ {''.join(one.format(*pair) for pair in named)} }}")
    flags = [f"--model_config_file={config}", "--file_system_poll_wait_seconds=1", NO_RETRY]
    server = start_server("", flags=flags, prefix=without_rights_of_root()).wait_ready()
    worker = server.worker_pid()

    closed.chmod(0)
    told = f"Could not read base path {closed} for servable closed: Permission denied. Make it readable"
    server.wait_log(told)
    hidden = models.save_half_plus(tmp_path / "hidden", 4.0)
    hidden.chmod(0)
    hidden.rename(tmp_path / "other" / "2")
    wait_until(lambda: states(server, "other").get(2) == "END", "a version that cannot be read is given up")
    answer = requests.get(f"{server.rest}/v1/models/other/versions/2", timeout=30).json()
    assert "Permission denied" in answer["model_version_status"][0]["status"]["error_message"]
    models.save_half_plus(tmp_path / "other" / "3", 3.0)
    wait_until(lambda: states(server, "other").get(3) == "AVAILABLE", "others get new versions")
    for name, y in (("model", 2.5), ("closed", 2.5), ("other", 3.5)):
        url = f"{server.rest}/v1/models/{name}:predict"
        assert requests.post(url, json={"instances": [1.0]}, timeout=30).json() == {"predictions": [y]}
    assert server.log.count(told) == 1, "not again at every poll"

    closed.chmod(0o755)
    models.save_half_plus(closed / "2", 5.0)
    wait_until(lambda: states(server, "closed").get(2) == "AVAILABLE", "what was repaired is found")
    assert server.worker_pid() == worker


def states(server: ServerProcess, model: str) -> dict[int, str]:
    """The state of each version of `model`."""
    entries = requests.get(f"{server.rest}/v1/models/{model}", timeout=30).json()["model_version_status"]
    return {int(entry["version"]): entry["state"] for entry in entries}


def test_deadlines_do_not_follow_the_wall_clock() -> None:
    """Clocks jump: the wall clock may only stamp logs and files, and tell the age of files."""
    allowed = {"logs.py", "storage.py", "model_cache.py", "remote.py", "store.py", "remote_object.py"}
    users = {
        module.name
        for module in (REPOSITORY / "app").rglob("*.py")
        if re.search(r"\btime\.time\(|datetime\.now|utcnow", module.read_text())
    }
    assert users <= allowed
