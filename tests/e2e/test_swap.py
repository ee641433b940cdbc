"""A new version takes over while clients keep sending: nothing fails, nothing is lost."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import requests

from tests.conftest import StartServer
from tests.support import models
from tests.support.gate import Gate
from tests.support.process import ServerProcess, wait_until


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 to 5, y = x / 2 + VERSION. Not to be changed by a test."""
    directory = tmp_path_factory.mktemp("exported")
    for version in range(1, 6):
        models.save_half_plus(directory / str(version), version)
    return directory


@pytest.fixture
def versions(exported: Path, tmp_path: Path) -> Path:
    """The same, for one test, in a directory that no server looks at."""
    return shutil.copytree(exported, tmp_path / "staged_versions")


class Load:
    """Clients that send until told to stop, and what they were answered."""

    def __init__(self, server: ServerProcess, threads: int = 2) -> None:
        self.answers: list[float] = []
        self.errors: list[object] = []
        self._stop = threading.Event()
        senders = (self._rest(server), self._grpc(server))
        self._threads = [
            threading.Thread(target=self._run, args=(send,)) for send in senders for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _rest(self, server: ServerProcess) -> Callable[[], float]:
        sessions = threading.local()

        def send() -> float:
            if not hasattr(sessions, "session"):
                sessions.session = requests.Session()
            answer = sessions.session.post(server.url(":predict"), json={"instances": [0.0]}, timeout=30)
            answer.raise_for_status()
            return float(answer.json()["predictions"][0])

        return send

    def _grpc(self, server: ServerProcess) -> Callable[[], float]:
        stub, request = server.prediction, server.predict_request([0.0])

        def send() -> float:
            return float(stub.Predict(request, timeout=30).outputs["y"].float_val[0])

        return send

    def _run(self, send: Callable[[], float]) -> None:
        last = 0.0
        while not self._stop.is_set():
            try:
                answer = send()
            except Exception as error:
                self.errors.append(error)
                return
            if answer < last:
                self.errors.append(f"{answer} after {last}")
            last = answer
            self.answers.append(answer)

    def reached(self, version: int) -> bool:
        """Whether `version` answers (or something failed, which ends the test)."""
        return bool(self.errors or (self.answers and self.answers[-1] == version))

    def unloaded(self, server: ServerProcess, version: int) -> bool:
        """Whether `version` is gone (or something failed)."""
        return bool(self.errors) or server.states().get(version) == "END"

    def stop(self) -> None:
        """Stop sending and wait for the last answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_swaps_under_load_lose_no_request(start_server: StartServer, versions: Path, tmp_path: Path) -> None:
    base_path = tmp_path / "model"
    base_path.mkdir()
    (versions / "1").rename(base_path / "1")
    server = start_server(base_path).wait_ready()
    load = Load(server)
    try:
        for version in range(2, 6):
            (versions / str(version)).rename(base_path / str(version))
            wait_until(partial(load.reached, version), f"version {version} answers")
            wait_until(partial(load.unloaded, server, version - 1), f"version {version - 1} is unloaded")
    finally:
        load.stop()
    assert load.errors == []
    assert set(load.answers) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert server.states() == {1: "END", 2: "END", 3: "END", 4: "END", 5: "AVAILABLE"}


def test_a_version_that_is_removed_is_unloaded_and_the_older_one_returns(
    start_server: StartServer, versions: Path, tmp_path: Path
) -> None:
    base_path = tmp_path / "model"
    shutil.copytree(versions / "1", base_path / "1")
    shutil.copytree(versions / "2", base_path / "2")
    server = start_server(base_path).wait_ready()
    wait_until(lambda: server.predict([0.0]).json() == {"predictions": [2.0]}, "version 2 is served")
    shutil.rmtree(base_path / "2")
    wait_until(lambda: server.states() == {1: "AVAILABLE", 2: "END"}, "rolled back to version 1")
    assert server.predict([0.0]).json() == {"predictions": [1.0]}


def test_a_copy_in_progress_is_not_loaded_before_it_is_complete(
    start_server: StartServer, versions: Path, tmp_path: Path
) -> None:
    base_path = tmp_path / "model"
    shutil.copytree(versions / "1", base_path / "1")
    server = start_server(base_path, flags=["--max_num_load_retries=0"]).wait_ready()
    target = base_path / "2"
    (target / "variables").mkdir(parents=True)
    shutil.copy(versions / "2" / "saved_model.pb", target)
    server.wait_log("Version 2 of servable model is still being written")
    for file in (versions / "2" / "variables").iterdir():
        shutil.copy(file, target / "variables")
    wait_until(lambda: server.states().get(2) == "AVAILABLE", "version 2 is available")
    assert "failed" not in server.log


def test_a_new_version_is_found_by_polling_where_there_are_no_events(
    start_server: StartServer, versions: Path, tmp_path: Path
) -> None:
    # A symbolic link that is re-pointed: the watched directory itself sees no event.
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(versions / "1", first / "1")
    shutil.copytree(versions / "2", second / "2")
    link = tmp_path / "model"
    link.symlink_to(first)
    server = start_server(link).wait_ready()
    (tmp_path / "next").symlink_to(second)
    os.replace(tmp_path / "next", link)
    wait_until(lambda: server.states() == {1: "END", 2: "AVAILABLE"}, "the link's new target is served")


def test_a_long_request_keeps_its_version_until_it_is_answered(
    start_server: StartServer, gated: Path, tmp_path: Path
) -> None:
    base_path = tmp_path / "model"
    shutil.copytree(gated, base_path)
    server = start_server(base_path, flags=["--rest_api_timeout_in_ms=0"]).wait_ready()
    request = Gate(server, tmp_path / "gate", "/versions/1:predict")
    shutil.copytree(gated / "1", tmp_path / "staged")
    (tmp_path / "staged").rename(base_path / "2")
    wait_until(lambda: server.states().get(2) == "AVAILABLE", "version 2 is available")
    wait_until(lambda: server.states()[1] == "UNLOADING", "version 1 waits for its request")
    assert request.answers == []
    request.open()
    assert request.answers == [request.expected]
    wait_until(lambda: server.states()[1] == "END", "version 1 is unloaded")
