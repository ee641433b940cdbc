"""The image for GPUs, on a machine that need not have one. `make test-gpu` builds it and runs these."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.container.containers import HARDENED, MODEL, PYTHON, predict_grpc, started
from tests.support.process import REPOSITORY

pytestmark = [
    pytest.mark.container,
    pytest.mark.skipif("FERRY_TEST_GPU_IMAGE" not in os.environ, reason="the image has 6 GB: make test-gpu"),
]

# Opens every CUDA library, as TensorFlow would on a machine with a GPU; prints what is asked below, as JSON.
INVENTORY = r"""
import ctypes, importlib.metadata, json, pathlib, sys
import tensorflow as tf
site = pathlib.Path(sys.prefix, "lib/python3.11/site-packages")
text = b"".join(path.read_bytes() for path in site.glob("tensorflow/libtensorflow_*.so.2"))
libraries = sorted(site.glob("nvidia/*/lib/lib*.so*"))
failed, left = {}, libraries
while left:  # one may need another that comes later
    failed = {}
    for library in left:
        try:
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
        except OSError as error:
            failed[str(library)] = str(error)
    if len(failed) == len(left):
        break
    left = [library for library in left if str(library) in failed]
print(json.dumps({
    "cuda": tf.test.is_built_with_cuda(),
    "distributions": [d.metadata["Name"].lower() for d in importlib.metadata.distributions(path=[str(site)])],
    "libraries": [library.name for library in libraries],
    "failed": failed,
    "found": sorted({path.parent.parent.name for path in libraries if str(
        pathlib.Path("nvidia", path.parent.parent.name, "lib")).encode() in text}),
    "ptxas": bool(list(site.glob("nvidia/cuda_nvcc/bin/ptxas"))),
    "libdevice": bool(list(site.glob("nvidia/cuda_nvcc/nvvm/libdevice/*.bc"))),
}))
"""


@pytest.fixture(scope="module")
def gpu_image() -> str:
    return os.environ["FERRY_TEST_GPU_IMAGE"]


def test_without_a_gpu_the_start_fails_with_one_clear_line(
    client: docker.DockerClient, gpu_image: str, sample: Path
) -> None:
    environment, mounts = {"MODEL_NAME": MODEL}, {sample: f"/models/{MODEL}"}
    with started(client, gpu_image, mounts=mounts, environment=environment) as server:
        assert server.wait_exit() == 255
        (line,) = (line for line in server.log.splitlines() if "Failed to start server. Error:" in line)
    assert "TensorFlow finds none: there is no /dev/nvidia0. " in line
    assert "docker run --gpus all" in line


def test_without_a_gpu_it_serves_if_that_is_allowed(
    client: docker.DockerClient, gpu_image: str, sample: Path
) -> None:
    environment, mounts = {"MODEL_NAME": MODEL}, {sample: f"/models/{MODEL}"}
    with started(
        client, gpu_image, "--allow_no_gpu", mounts=mounts, environment=environment, **HARDENED
    ) as server:
        assert server.wait_ready().predict([1.0, 2.0, 5.0]) == {"predictions": [2.5, 3.0, 4.5]}
        assert predict_grpc(server.port(8500), [1.0]) == [2.5]


def test_it_declares_what_the_image_for_cpus_declares_and_asks_for_gpus(
    client: docker.DockerClient, gpu_image: str
) -> None:
    declared: dict[str, Any] = client.images.get(gpu_image).attrs["Config"]
    assert declared["Entrypoint"] == ["/usr/bin/tf_serving_entrypoint.sh"]
    assert declared["User"] == "1000:0"
    assert {
        "NVIDIA_VISIBLE_DEVICES=all",
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        "FERRY_REQUIRE_GPU=1",
    } <= set(declared["Env"])
    assert declared["Labels"]["org.opencontainers.image.description"].endswith("for NVIDIA GPUs")


def test_its_cuda_libraries_are_whole_and_known_to_tensorflow(
    client: docker.DockerClient, gpu_image: str
) -> None:
    with started(client, gpu_image, "-c", INVENTORY, entrypoint=[PYTHON], ports=()) as server:
        assert server.wait_exit() == 0
        inventory = json.loads(server.container.logs(stderr=False))
    print(inventory)
    assert inventory["cuda"]
    assert "tensorflow" in inventory["distributions"]
    assert "tensorflow-cpu" not in inventory["distributions"]
    # Without the driver, which the host brings, nothing but it may be missing.
    assert {name: text for name, text in inventory["failed"].items() if "libcuda.so.1" not in text} == {}
    assert {"cublas", "cudnn", "cufft", "cusolver", "cusparse", "nccl"} <= set(inventory["found"])
    assert inventory["ptxas"]
    assert inventory["libdevice"]


def test_the_package_is_the_locked_one(client: docker.DockerClient, gpu_image: str) -> None:
    lock = (REPOSITORY / "requirements" / "gpu.lock").read_text()
    version = re.search(r"^tensorflow==(\S+)", lock, re.MULTILINE)
    assert version is not None
    with started(client, gpu_image, "--version", entrypoint=["tensorflow_model_server"], ports=()) as server:
        assert server.wait_exit() == 0
        assert f"TensorFlow Library: {version[1]}" in server.log
