"""compose/swarm.yml on a swarm of this one engine, under load all the time."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import grpc
import pytest
import requests
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.container.containers import MODEL, docker_command, make_readable
from tests.container.stacks import COMPOSE, Images
from tests.container.swarm import TOKEN, Load, Swarm
from tests.support.process import free_port, wait_until

pytestmark = pytest.mark.container


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


def test_replicas_have_what_the_file_gives_them(swarm: Swarm) -> None:
    """Limits, and the secret as a file; what keeps an update from taking everything down."""
    for replica in swarm.replicas():
        replica.reload()
        host: dict[str, Any] = replica.attrs["HostConfig"]
        assert (host["NanoCpus"], host["Memory"]) == (2 * 10**9, 2 * 2**30)
        assert host["ReadonlyRootfs"]
        status, kept = replica.exec_run(["cat", "/run/secrets/tokens"])
        assert (status, TOKEN.encode() in kept) == (0, True)
        assert not any(TOKEN in text for text in (*replica.attrs["Config"]["Env"], *replica.attrs["Args"]))
    reserved = swarm.service.attrs["Spec"]["TaskTemplate"]["Resources"]["Reservations"]
    assert reserved["MemoryBytes"] == 256 * 2**20
    for kind in ("UpdateConfig", "RollbackConfig"):
        assert swarm.service.attrs["Spec"][kind]["Order"] == "start-first"
    assert swarm.service.attrs["Spec"]["UpdateConfig"]["FailureAction"] == "rollback"
    balancer = swarm.client.services.get(f"{swarm.name}_balancer")  # type: ignore[no-untyped-call]
    (config,) = balancer.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Configs"]
    assert config["File"]["Name"] == "/usr/local/etc/haproxy/haproxy.cfg"


def test_a_stream_of_questions_and_answers_goes_through(swarm: Swarm) -> None:
    """Not held back until its end, as requests are that may have to be asked again."""
    answered = threading.Event()
    question = reflection_pb2.ServerReflectionRequest(list_services="")

    def questions() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield question
        assert answered.wait(20)

    with grpc.insecure_channel(swarm.load.grpc) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = stub.ServerReflectionInfo(
            questions(), timeout=20, metadata=[("authorization", f"Bearer {TOKEN}")]
        )
        names = [service.name for service in next(answers).list_services_response.service]
        answered.set()
        assert "tensorflow.serving.PredictionService" in names
        assert list(answers) == []


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


def test_a_secret_is_changed_for_another(swarm: Swarm) -> None:
    """As docs/deploy.md says; clients have the old token all the time and the new one afterwards."""
    tokens = "".join(
        f'token {{ name: "{value}" value: "{value}" allow: [PREDICT, STATUS] }}\n' for value in (TOKEN, "new")
    )
    # By its label, it goes with the stack.
    labels = {"com.docker.stack.namespace": swarm.name}
    swarm.client.secrets.create(name=f"{swarm.name}_tokens-2", data=tokens.encode(), labels=labels)
    headers = {"x-api-key": "new"}
    assert requests.get(swarm.load.rest, headers=headers, timeout=30).status_code == 401
    before = {one.id for one in swarm.wait_replicas(2)}
    changes = [
        f"--secret-rm={swarm.name}_tokens",
        f"--secret-add=source={swarm.name}_tokens-2,target=tokens,mode=0444",
    ]
    update = [docker_command(), "service", "update", "--detach", "--no-resolve-image", *changes]
    subprocess.run([*update, f"{swarm.name}_ferry"], check=True, capture_output=True)
    wait_until(
        lambda: len(now := {one.id for one in swarm.replicas()}) == len(before) and not now & before,
        "all replicas are new",
        300,
    )
    swarm.wait_replicas(len(before))
    assert requests.get(swarm.load.rest, headers=headers, timeout=30).ok
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
        300,
    )
    swarm.wait_replicas(2, new.id)
    swarm.load.goes_on()
