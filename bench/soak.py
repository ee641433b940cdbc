"""Mixed load, swaps, reloads, mistakes and slow clients, then a killed worker: what grows, what is lost?

    python bench/soak.py --seconds 1800

Ends with status 1 if a request was lost, or if the process's memory, threads or open files grew.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import grpc
import requests
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2

from tests.support import models
from tests.support.process import ServerProcess, free_port, resident_bytes, wait_until

WARM_PART = 0.4  # of the time, after which the process should not grow any more
MOST_GROWTH = 1.10
SPARE_THREADS, SPARE_FILES = 8, 12
SWAP_SECONDS = 2.0
ERROR_PAUSE_SECONDS = 0.05  # who is refused waits, and leaves the CPU to the server


@dataclass(frozen=True)
class Size:
    """What the serving process holds: MB, threads and open files."""

    megabytes: float
    threads: int
    files: int

    @staticmethod
    def of(pid: int) -> Size:
        """Read it now."""
        process = Path(f"/proc/{pid}")
        return Size(
            round(resident_bytes(pid) / 1e6, 1),
            len(list((process / "task").iterdir())),
            len(list((process / "fd").iterdir())),
        )


class Load:
    """Clients in threads until `stop`; each kind counts its answers and keeps its errors."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.answers: Counter[str] = Counter()
        self.errors: list[str] = []
        self._over = threading.Event()
        kinds: tuple[Callable[[requests.Session], None], ...] = (
            self.rest,
            self.grpc,
            self.many_rows,
            self.mistake,
            self.slow,
            self.impatient,
        )
        self._threads = [threading.Thread(target=self._run, args=(kind,)) for kind in kinds]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; waits for the last answers."""
        self._over.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _run(self, kind: Callable[[requests.Session], None]) -> None:
        with requests.Session() as session:
            while not self._over.is_set():
                try:
                    kind(session)
                    self.answers[kind.__name__] += 1
                except Exception as error:
                    self.errors.append(f"{kind.__name__}: {error!r}"[:300])
                    self._over.wait(ERROR_PAUSE_SECONDS)

    def _post(self, session: requests.Session, rows: int) -> None:
        url = self.server.url(":predict")
        answer = session.post(url, json={"instances": [1.0] * rows}, timeout=60)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["predictions"]) == rows

    def rest(self, session: requests.Session) -> None:
        """A small request over REST."""
        self._post(session, 1)

    def many_rows(self, session: requests.Session) -> None:
        """A large one."""
        self._post(session, 20_000)

    def grpc(self, session: requests.Session) -> None:
        """A small one over gRPC."""
        del session
        answer = self.server.prediction.Predict(self.server.predict_request([1.0]), timeout=60)
        assert len(answer.outputs["y"].float_val) == 1

    def mistake(self, session: requests.Session) -> None:
        """Requests that have to be refused."""
        bad = (b"{", b'{"instances": "x"}', b"[" * 5000, b"")
        for body in bad:
            assert session.post(self.server.url(":predict"), data=body, timeout=60).status_code == 400
        assert session.post(self.server.url("x:predict"), data=b"{}", timeout=60).status_code in (400, 404)
        with contextlib.suppress(grpc.RpcError):
            request = self.server.predict_request([1.0])
            request.inputs["z"].CopyFrom(request.inputs["x"])
            self.server.prediction.Predict(request, timeout=60)
            raise AssertionError("a mistake was answered")

    def slow(self, session: requests.Session) -> None:
        """Sends a request byte by byte."""
        del session
        with socket.create_connection(("127.0.0.1", self.server.rest_port), timeout=60) as sock:
            for byte in b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
                sock.sendall(bytes([byte]))
                time.sleep(0.02)
            assert sock.recv(15) == b"HTTP/1.1 200 OK"

    def impatient(self, session: requests.Session) -> None:
        """Goes away in the middle of a request."""
        del session
        with socket.create_connection(("127.0.0.1", self.server.rest_port), timeout=60) as sock:
            sock.sendall(b"POST /v1/models/model:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.05)


def configuration(base_path: Path, *, other: bool) -> Any:
    """The served model, and a second one that comes and goes."""
    request = model_management_pb2.ReloadConfigRequest()
    for name in ("model", "other") if other else ("model",):
        request.config.model_config_list.config.add(
            name=name, base_path=str(base_path), model_platform="tensorflow"
        )
    return request


def soak(seconds: float, directory: Path) -> list[str]:
    """Run it all in `directory`; what went wrong, in sentences."""
    base_path = directory / "model"
    exported = models.save_half_plus(directory / "exported", 2.0)
    base_path.mkdir()
    shutil.copytree(exported, base_path / "1")
    config = directory / "models.config"
    config.write_text(text_format.MessageToString(configuration(base_path, other=False).config))
    server = ServerProcess("", directory / "server.log", flags=[f"--model_config_file={config}"])
    load = Load(server)
    sizes: list[Size] = []
    try:
        server.wait_ready()
        load.start()
        begun, version = time.monotonic(), 1
        while time.monotonic() - begun < seconds:
            time.sleep(SWAP_SECONDS)
            version += 1
            publish(exported, base_path, version)
            wait_until(lambda: server.states().get(version) == "AVAILABLE", f"version {version} serves")  # noqa: B023
            shutil.rmtree(base_path / str(version - 1))
            server.models.HandleReloadConfigRequest(
                configuration(base_path, other=version % 2 == 0), timeout=60
            )
            if time.monotonic() - begun > seconds * WARM_PART:
                sizes.append(Size.of(server.worker_pid()))
        load.stop()
        wrong = [f"lost or wrong: {error}" for error in load.errors[:10]] + grown(sizes)
        print(f"{version} versions; answers: {dict(load.answers)}")
        print(f"first {sizes[0]}, last {sizes[-1]}" if sizes else "too short to judge sizes")
        return wrong + killed(server)
    finally:
        load.stop()
        server.kill()


def publish(exported: Path, base_path: Path, version: int) -> None:
    """Put a version in place by renaming."""
    staged = base_path.parent / "staged"
    shutil.copytree(exported, staged)
    staged.rename(base_path / str(version))


def grown(sizes: list[Size]) -> list[str]:
    """What grew between the first and the last quarter of `sizes`."""
    quarter = max(1, len(sizes) // 4)
    wrong = []
    for name, most in (
        ("megabytes", lambda first: first * MOST_GROWTH),
        ("threads", lambda first: first + SPARE_THREADS),
        ("files", lambda first: first + SPARE_FILES),
    ):
        values = [getattr(size, name) for size in sizes]
        first, last = max(values[:quarter], default=0), min(values[-quarter:], default=0)
        if last > most(first):
            wrong.append(f"{name} grew from {first} to {last}")
    return wrong


def killed(server: ServerProcess) -> list[str]:
    """Kill the worker under load: clients may see connection errors, and nothing else."""
    load = Load(server)
    load.start()
    try:
        time.sleep(1)
        os.kill(server.worker_pid(), signal.SIGKILL)
        server.wait_log("The serving process died; starting it again.")
        server.wait_ready()
        time.sleep(1)
    finally:
        load.stop()
    accepted = ("ConnectionError", "UNAVAILABLE", "ConnectionRefusedError", "ConnectionResetError", "b''")
    wrong = [error for error in load.errors if not any(name in error for name in accepted)]
    if not server.predict([1.0]).ok:
        wrong.append("the server does not answer after its worker was killed")
    server.terminate()
    if (status := server.wait_exit()) != 0:
        wrong.append(f"the server ended with {status}")
    return [f"worker killed: {error}" for error in wrong[:10]]


def main() -> int:
    """The command line; 1 if something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix=f"ferry-soak-{free_port()}-") as directory:
        wrong = soak(seconds, Path(directory))
    print("\n".join(wrong) or "nothing was lost, nothing grew")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
