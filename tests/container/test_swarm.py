"""compose/swarm.yml on a swarm of this one engine, under load all the time."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import docker.errors
import grpc
import pytest
import requests
from docker.models.containers import Container
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.container.containers import MODEL, PYTHON, docker_command, make_readable
from tests.container.stacks import COMPOSE, Images
from tests.support.process import free_port, wait_until

pytestmark = pytest.mark.container

TOKEN = "swarm"
DAMPER = 0.02
"""Seconds between two requests of a client: the machine has other things to do than this load."""


@dataclass
class Load:
    """Clients that ask all the time.

    Attributes:
        counts: answered requests by transport.
        lost: what went wrong.
    """

    rest: str
    grpc: str
    counts: dict[str, int] = field(default_factory=lambda: {"rest": 0, "grpc": 0})
    lost: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin, with one client for each transport."""
        for transport, run in (("rest", self._rest), ("grpc", self._grpc)):
            thread = threading.Thread(target=self._repeat, args=(transport, run))
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self, requests_each: int = 100) -> None:
        """Wait until both have been answered that often again, and nothing was lost."""
        goal = {transport: count + requests_each for transport, count in self.counts.items()}
        wait_until(
            lambda: self.lost or all(self.counts[key] >= goal[key] for key in goal), "requests are answered"
        )
        assert self.lost == []

    def _repeat(self, transport: str, run: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        with run() as ask:
            while not self._ended.wait(DAMPER):
                try:
                    answer = ask()
                    assert answer == [2.5], answer
                    self.counts[transport] += 1
                except Exception as error:  # each is told in the end
                    self.lost.append(f"{transport}: {error!r}")

    @contextlib.contextmanager
    def _rest(self) -> Iterator[Callable[[], Any]]:
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {TOKEN}"

            def ask() -> Any:
                answer = session.post(f"{self.rest}:predict", json={"instances": [1.0]}, timeout=30)
                return answer.json()["predictions"] if answer.ok else answer.text

            yield ask

    @contextlib.contextmanager
    def _grpc(self) -> Iterator[Callable[[], Any]]:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = MODEL
        request.inputs["x"].dtype = 1
        request.inputs["x"].tensor_shape.dim.add(size=1)
        request.inputs["x"].float_val.append(1.0)
        # One connection for everything: the balancer has to spread its requests.
        with grpc.insecure_channel(self.grpc, [("grpc.enable_retries", 0)]) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            metadata = [("authorization", f"Bearer {TOKEN}")]
            yield lambda: list(stub.Predict(request, timeout=30, metadata=metadata).outputs["y"].float_val)


@dataclass
class Swarm:
    """The stack, deployed, with a load on it."""

    client: docker.DockerClient
    name: str
    models: Path
    load: Load

    @property
    def service(self) -> Any:
        """The service of the replicas."""
        return self.client.services.get(f"{self.name}_ferry")  # type: ignore[no-untyped-call]

    def replicas(self) -> list[Container]:
        """The containers that run and are healthy, with the newest last."""
        label = f"com.docker.swarm.service.name={self.name}_ferry"
        found = self.client.containers.list(filters={"label": label, "health": "healthy"})
        return sorted(found, key=lambda container: str(container.attrs["Created"]))

    def wait_replicas(self, count: int, image: str | None = None) -> list[Container]:
        """Wait for so many, with nothing else left and none of another image."""

        def there() -> list[Container]:
            label = f"com.docker.swarm.service.name={self.name}_ferry"
            everything = self.client.containers.list(filters={"label": label})
            good = [one for one in self.replicas() if image in (None, one.image and one.image.id)]
            return good if len(good) == len(everything) == count else []

        found: list[Container] = wait_until(there, f"{count} replicas", 120)
        return found

    def scale(self, count: int) -> list[Container]:
        """Wait for so many replicas after asking for them."""
        self.service.scale(count)
        return self.wait_replicas(count)

    def answered(self, container: Container) -> dict[str, int]:
        """How many predictions a replica has answered since its start, by transport."""
        code = (
            "import urllib.request as u; print(u.urlopen(u.Request('http://127.0.0.1:8501/metrics', "
            f"headers={{'x-api-key': '{TOKEN}'}})).read().decode())"
        )
        output = container.exec_run([PYTHON, "-c", code]).output
        assert isinstance(output, bytes)  # not streamed
        page = output.decode()
        counts = {"rest": 0, "grpc": 0}
        for line in page.splitlines():
            if line.startswith("tensorflow_serving_request_latency_count") and 'redict"' in line:
                counts["grpc" if 'entrypoint="GRPC"' in line else "rest"] += int(float(line.split()[-1]))
        return counts

    def spread(self) -> dict[str, float]:
        """Over some requests, the busiest replica's share beside the idlest's, as a ratio by transport."""
        replicas = self.replicas()
        before = [self.answered(one) for one in replicas]
        self.load.goes_on(150)
        after = [self.answered(one) for one in replicas]
        ratios = {}
        for transport in ("rest", "grpc"):
            parts = [now[transport] - then[transport] for now, then in zip(after, before, strict=True)]
            ratios[transport] = max(parts) / max(min(parts), 1)
        return ratios


@pytest.fixture(scope="module")
def engine_in_swarm(client: docker.DockerClient) -> Iterator[docker.DockerClient]:
    """This engine as a swarm of its own, unless it is in one."""
    state = client.info()["Swarm"]["LocalNodeState"]
    if state == "active":
        yield client
        return
    client.swarm.init(advertise_addr="127.0.0.1", listen_addr="127.0.0.1:2377")
    try:
        yield client
    finally:
        client.swarm.leave(force=True)


@pytest.fixture(scope="module")
def swarm(
    engine_in_swarm: docker.DockerClient,
    images: Images,
    sample: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Swarm]:
    """One replica that serves, under load until the end of the tests."""
    client = engine_in_swarm
    directory = tmp_path_factory.mktemp("swarm")
    shutil.copytree(sample, models := directory / MODEL)
    tokens = directory / "tokens.config"
    tokens.write_text(f'token {{ name: "test" value: "{TOKEN}" allow: [PREDICT, STATUS] }}\n')
    make_readable(directory)
    name, rest, rpc = f"ferry-test-{uuid.uuid4().hex[:8]}", free_port(), free_port()
    variables = {
        "MODEL_DIR": str(models),
        "TOKENS_FILE": str(tokens),
        "REST_PORT": str(rest),
        "GRPC_PORT": str(rpc),
        "REPLICAS": "1",
        "HEALTH_INTERVAL": "1s",
        "UPDATE_DELAY": "0s",
        "UPDATE_MONITOR": "2s",
        "DOCKER": docker_command(),
    }
    load = Load(f"http://127.0.0.1:{rest}/v1/models/{MODEL}", f"127.0.0.1:{rpc}")
    running = Swarm(client, name, models, load)

    def serves() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(load.rest, headers={"x-api-key": TOKEN}, timeout=10).ok
        return False

    try:
        environment = {**os.environ, **images("swarm"), **variables}
        subprocess.run([COMPOSE / "swarm" / "deploy", name], env=environment, check=True)
        running.wait_replicas(1)
        wait_until(serves, "the balancer has found the replica")
        load.start()
        yield running
    finally:
        load.stop()
        for service in (f"{name}_ferry", f"{name}_balancer"):
            for question in (["ps", "--no-trunc"], ["logs", "--tail=50"]):
                subprocess.run([docker_command(), "service", *question, service], check=False)
        subprocess.run([docker_command(), "stack", "rm", name], check=True)
        label = f"com.docker.stack.namespace={name}"
        wait_until(lambda: not client.containers.list(filters={"label": label}), "the stack is gone")
        with contextlib.suppress(docker.errors.ImageNotFound):
            client.images.remove(f"{name}:2", force=True)
        wait_until(lambda: not client.networks.list(filters={"label": label}), "its network is gone")


# One after the other: each begins with what the one before has left.


def test_it_scales_up_and_spreads_every_request(swarm: Swarm) -> None:
    swarm.scale(3)
    wait_until(lambda: all(sum(swarm.answered(one).values()) for one in swarm.replicas()), "all take part")
    ratios = swarm.spread()
    print(ratios)
    assert max(ratios.values()) <= 1.2
    assert swarm.load.lost == []


def test_it_scales_down_without_a_loss(swarm: Swarm) -> None:
    swarm.scale(2)
    swarm.load.goes_on()


def test_a_killed_replica_is_replaced(swarm: Swarm) -> None:
    killed, other = swarm.wait_replicas(2)
    killed.kill()
    wait_until(lambda: {one.id for one in swarm.replicas()} == {other.id}, "the engine has seen it")
    swarm.load.goes_on()
    swarm.wait_replicas(2)
    swarm.load.goes_on()


def test_it_rolls_to_a_new_model(swarm: Swarm) -> None:
    staged = swarm.models.parent / "staged"
    shutil.copytree(swarm.models / "00000123", staged)
    staged.rename(swarm.models / "124")

    def answered_by_new() -> bool:
        url = f"{swarm.load.rest}/versions/124:predict"
        headers = {"x-api-key": TOKEN}
        # In turn: so many reach both replicas.
        answers = [
            requests.post(url, json={"instances": [1.0]}, headers=headers, timeout=30) for _ in range(8)
        ]
        return all(answer.ok for answer in answers)

    wait_until(answered_by_new, "all replicas have the new version")
    swarm.load.goes_on()


def test_it_rolls_to_a_new_image_and_back(
    swarm: Swarm, client: docker.DockerClient, image: str, tmp_path: Path
) -> None:
    # The name goes with the stack.
    (tmp_path / "Dockerfile").write_text(f"FROM {image}\nLABEL generation=2\n")
    new, _ = client.images.build(path=str(tmp_path), tag=f"{swarm.name}:2", rm=True)
    update = [docker_command(), "service", "update", "--detach", "--no-resolve-image"]
    name = f"{swarm.name}_ferry"
    subprocess.run([*update, f"--image={swarm.name}:2", name], check=True, capture_output=True)
    swarm.wait_replicas(2, new.id)
    swarm.load.goes_on()

    # One that cannot serve ends before it is healthy, and the swarm goes back by itself.
    subprocess.run([*update, "--args=--model_config_file=/missing", name], check=True, capture_output=True)
    wait_until(
        lambda: swarm.service.attrs.get("UpdateStatus", {}).get("State") == "rollback_completed",
        "the swarm has gone back",
        120,
    )
    swarm.wait_replicas(2, new.id)
    swarm.load.goes_on()
