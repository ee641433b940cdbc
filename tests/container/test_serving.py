"""`docker run` as users of TensorFlow Serving's image know it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
import yaml

from tests.container.containers import (
    HARDENED,
    MODEL,
    PYTHON,
    QUICK_HEALTH,
    SERVER,
    Server,
    make_readable,
    predict_grpc,
    started,
)
from tests.support import tflite_models
from tests.support.process import REPOSITORY, wait_until

pytestmark = pytest.mark.container

ANSWER = {"predictions": [2.5, 3.0, 4.5]}


@pytest.fixture(scope="module")
def server(client: docker.DockerClient, image: str, sample: Path) -> Iterator[Server]:
    """The README's `docker run`, with a health check that does not keep a test waiting."""
    with started(
        client,
        image,
        mounts={sample: f"/models/{MODEL}"},
        environment={"MODEL_NAME": MODEL},
        healthcheck=QUICK_HEALTH,
    ) as running:
        yield running.wait_ready()


def test_rest_predicts(server: Server) -> None:
    assert server.predict([1.0, 2.0, 5.0]) == ANSWER


def test_grpc_predicts(server: Server) -> None:
    assert predict_grpc(server.port(8500), [1.0, 2.0, 5.0]) == [2.5, 3.0, 4.5]


def test_it_becomes_healthy(server: Server) -> None:
    wait_until(lambda: server.health["Status"] == "healthy", "the container is healthy")
    assert server.health["Log"][-1]["Output"] == 'port 8501, /readyz: HTTP status 200 {"ready":true}\n'


def test_process_1_is_the_server(server: Server) -> None:
    command = server.execute("cat", "/proc/1/cmdline").split("\0")
    assert command[0] == PYTHON
    assert SERVER in command[1:3]
    assert command[-5:-1] == [
        "--port=8500",
        "--rest_api_port=8501",
        f"--model_name={MODEL}",
        f"--model_base_path=/models/{MODEL}",
    ]


def test_it_runs_as_user_1000_of_group_0(server: Server) -> None:
    status = server.execute("cat", "/proc/1/status")
    assert "\nUid:\t1000\t1000\t1000\t1000\n" in status
    assert "\nGid:\t0\t0\t0\t0\n" in status


@pytest.mark.parametrize("user", ["1000:0", "12345:0", "12345:12345"])
def test_any_user_serves_from_a_read_only_root(
    client: docker.DockerClient, image: str, sample: Path, user: str
) -> None:
    mounts = {sample: f"/models/{MODEL}"}
    environment = {"MODEL_NAME": MODEL}
    with started(client, image, mounts=mounts, environment=environment, user=user, **HARDENED) as server:
        assert server.wait_ready().predict([1.0, 2.0, 5.0]) == ANSWER
        assert f"\nUid:\t{user.partition(':')[0]}\t" in server.execute("cat", "/proc/1/status")
        assert predict_grpc(server.port(8500), [1.0]) == [2.5]


def test_a_tensorflow_lite_model_is_served(client: docker.DockerClient, image: str, tmp_path: Path) -> None:
    base_path = tmp_path / MODEL
    version = tflite_models.save_half_plus(base_path / "1")
    x, y = ("serving_default_x:0", 1, [-1]), ("PartitionedCall:0", 1, [-1])
    signature = tflite_models.signature_def({"x": x}, {"y": y})
    tflite_models.store_signatures(version, {"serving_default": signature})
    with started(
        client,
        image,
        "--prefer_tflite_model",
        mounts={make_readable(base_path): f"/models/{MODEL}"},
        environment={"MODEL_NAME": MODEL},
        **HARDENED,
    ) as server:
        assert server.wait_ready().predict([1.0, 2.0, 5.0]) == ANSWER
        assert predict_grpc(server.port(8500), [1.0, 2.0, 5.0]) == [2.5, 3.0, 4.5]


def test_the_callers_flags_win(client: docker.DockerClient, image: str, sample: Path) -> None:
    with started(
        client,
        image,
        "--model_name=other",
        "--rest_api_port=9001",
        "--port=9000",
        model="other",
        mounts={sample: f"/models/{MODEL}"},
        environment={"MODEL_NAME": MODEL},
        ports=(9000, 9001),
        healthcheck=QUICK_HEALTH,
    ) as server:
        server.wait_ready(inside=9001)
        assert server.predict([1.0, 2.0, 5.0], inside=9001) == ANSWER
        assert predict_grpc(server.port(9000), [1.0], model="other") == [2.5]
        assert not server.listens(8500)
        assert not server.listens(8501)
        # The health check reads the flags that count.
        wait_until(lambda: server.health["Status"] == "healthy", "the container is healthy")


def test_model_base_path_is_honoured_whatever_its_letters(
    client: docker.DockerClient, image: str, sample: Path
) -> None:
    with started(
        client,
        image,
        model="two words",
        mounts={sample: "/srv/my $models/two words"},
        environment={"MODEL_BASE_PATH": "/srv/my $models", "MODEL_NAME": "two words"},
    ) as server:
        assert server.wait_ready().predict([1.0, 2.0, 5.0]) == ANSWER


@pytest.mark.parametrize("program", ["tensorflow_model_server", SERVER])
def test_the_server_can_be_the_entrypoint(
    client: docker.DockerClient, image: str, sample: Path, program: str
) -> None:
    arguments: tuple[Any, ...] = (
        "--rest_api_port=8501",
        f"--model_name={MODEL}",
        "--model_base_path=/mnt/models",
    )
    mounts = {sample: "/mnt/models"}
    with started(client, image, *arguments, mounts=mounts, entrypoint=[program]) as server:
        assert server.wait_ready().predict([1.0, 2.0, 5.0]) == ANSWER
        assert predict_grpc(server.port(8500), [1.0]) == [2.5]


def test_what_kserve_starts(client: docker.DockerClient, image: str, sample: Path) -> None:
    """Command, flags and user of deploy/kubernetes/kserve: a pod has the model of its name at /mnt/models."""
    file = REPOSITORY / "deploy" / "kubernetes" / "kserve" / "clusterservingruntime.yaml"
    (runs,) = yaml.safe_load(file.read_text())["spec"]["containers"]
    with started(
        client,
        image,
        *(argument.replace("{{.Name}}", "flowers") for argument in runs["args"]),
        model="flowers",
        mounts={sample: "/mnt/models"},
        ports=(9000, 8080),
        entrypoint=runs["command"],
        user=str(runs["securityContext"]["runAsUser"]),
        cap_drop=runs["securityContext"]["capabilities"]["drop"],
        security_opt=["no-new-privileges:true"],
    ) as server:
        server.wait_ready(inside=8080)
        assert server.predict([1.0, 2.0, 5.0], inside=8080) == ANSWER
        assert predict_grpc(server.port(9000), [1.0], model="flowers") == [2.5]
        root = f"http://127.0.0.1:{server.port(8080)}"
        assert requests.get(root + runs["readinessProbe"]["httpGet"]["path"], timeout=10).json()["ready"]
        page = requests.get(f"{root}/metrics", timeout=10).text
        assert 'tensorflow_serving_request_count_total{model_name="flowers",status="OK"} ' in page


def test_threads_follow_the_quota_of_the_container(
    client: docker.DockerClient, image: str, sample: Path
) -> None:
    """`docker run --cpus=1.5`, and half a CPU."""
    schedulable = len(os.sched_getaffinity(0))
    mounts, environment = {sample: f"/models/{MODEL}"}, {"MODEL_NAME": MODEL}
    for quota, cpus in ((1.5, min(2, schedulable)), (0.5, 1)):
        limit: dict[str, Any] = {"nano_cpus": int(quota * 1e9)}
        with started(client, image, mounts=mounts, environment=environment, **limit) as server:
            server.wait_ready()
            assert f"TensorFlow: {cpus} intra-op and {cpus} inter-op threads" in server.log
        with started(client, image, "--help", entrypoint=[SERVER], ports=(), **limit) as server:
            assert server.wait_exit() == 255
            for name in ("grpc_max_threads", "rest_api_num_threads"):
                assert f"--{name}={4 * cpus} " in server.log
