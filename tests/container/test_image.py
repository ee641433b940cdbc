"""What the image declares, and what is in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import docker
import pytest

from app import __version__
from tests.container.containers import HARDENED, MODEL, PYTHON, SERVER, started
from tests.support.process import REPOSITORY

pytestmark = pytest.mark.container

DOCUMENTS = "/usr/share/doc/ferry"
MAX_BYTES_ABOVE_BASE = 1_100_000_000
PREFIX = "org.opencontainers.image."

# Prints what the tests below ask about the image's content, as JSON.
INVENTORY = r"""
import importlib.metadata, json, os, pathlib, sys
site = pathlib.Path(sys.prefix, "lib/python3.11/site-packages")
print(json.dumps({
    "distributions": {d.name: d.version for d in importlib.metadata.distributions(path=[str(site)])},
    "license": [str(f) for f in importlib.metadata.files("ferry-model-server") if f.name == "LICENSE"],
    "include": (site / "tensorflow/include").exists(),
    "unreadable": [str(p) for p in pathlib.Path(sys.prefix).rglob("*") if not os.access(p, os.R_OK)],
    "stale": [str(p) for p in (site / "app").rglob("*.pyc") if p.read_bytes()[4:8] != b"\1\0\0\0"],
    "uncompiled": [str(p) for p in site.rglob("*.py") if not p.parent.joinpath(
        "__pycache__", p.stem + ".cpython-311.pyc").exists()],
    "models": os.listdir("/models"),
}))
"""

# Uses what the removal of dead weight could have broken: prints y of x / 2 + 2 for 1.0, by each runtime.
RUNTIMES = r"""
import warnings
warnings.simplefilter("ignore")
import numpy
import tensorflow as tf
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    x = tf.compat.v1.placeholder(tf.float32, [None])
    print("session", session.run(x / 2 + 2, {x: [1.0]})[0])
compiled = tf.function(lambda x: x / 2 + 2, [tf.TensorSpec([1], tf.float32)], jit_compile=True)
print("xla", compiled([1.0]).numpy()[0])
plain = tf.function(lambda x: x / 2 + 2, [tf.TensorSpec([1], tf.float32)])
model = tf.lite.TFLiteConverter.from_concrete_functions([plain.get_concrete_function()]).convert()
interpreter = tf.lite.Interpreter(model_content=model)
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], numpy.ones([1], numpy.float32))
interpreter.invoke()
print("tflite", interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
picture = tf.io.encode_jpeg(tf.zeros([2, 2, 3], tf.uint8))
print("jpeg", tf.io.decode_image(picture).shape)
"""


def output(client: docker.DockerClient, image: str, *command: str, status: int = 0, **options: Any) -> str:
    """Standard output of `command` in a container of its own that ends with `status`."""
    with started(client, image, *command[1:], entrypoint=[command[0]], ports=(), **options) as server:
        assert server.wait_exit() == status
        return server.container.logs(stderr=False).decode()


@pytest.fixture(scope="module")
def declared(client: docker.DockerClient, image: str) -> dict[str, Any]:
    """`Config` of `docker inspect`."""
    config: dict[str, Any] = client.images.get(image).attrs["Config"]
    return config


@pytest.fixture(scope="module")
def inventory(client: docker.DockerClient, image: str) -> dict[str, Any]:
    """What lies in the image, as a user sees it that owns nothing."""
    found: dict[str, Any] = json.loads(output(client, image, PYTHON, "-c", INVENTORY, user="12345:12345"))
    return found


def test_it_has_tensorflow_servings_conventions(declared: dict[str, Any]) -> None:
    assert set(declared["ExposedPorts"]) == {"8500/tcp", "8501/tcp"}
    assert not declared.get("Volumes")
    assert declared["Entrypoint"] == ["/usr/bin/tf_serving_entrypoint.sh"]
    assert not declared["Cmd"]
    assert {"MODEL_BASE_PATH=/models", "MODEL_NAME=model"} <= set(declared["Env"])


def test_it_is_no_ones(declared: dict[str, Any]) -> None:
    assert declared["User"] == "1000:0"
    assert declared["StopSignal"] == "SIGTERM"


def test_it_checks_its_own_health(declared: dict[str, Any]) -> None:
    check = declared["Healthcheck"]
    assert check["Test"] == ["CMD", SERVER, "healthcheck"]
    assert check["StartPeriod"] >= 300 * 1_000_000_000  # nanoseconds; large models load for minutes


def test_it_is_labelled(declared: dict[str, Any], base_image: str) -> None:
    labels = {name.removeprefix(PREFIX): text for name, text in declared["Labels"].items()}
    assert labels["title"] == "Ferry"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] == __version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels["created"])
    assert labels["base.name"] == base_image
    assert all(labels[name] for name in ("description", "revision", "source", "base.digest"))
    assert declared["Labels"]["ferry.sbom"] == f"{DOCUMENTS}/sbom.cdx.json"
    assert declared["Labels"]["ferry.licenses"] == f"{DOCUMENTS}/licenses.txt"


def test_it_is_small(client: docker.DockerClient, image: str, base_image: str) -> None:
    built, base = client.images.get(image).attrs, client.images.get(base_image).attrs
    layers = base["RootFS"]["Layers"]
    assert built["RootFS"]["Layers"][: len(layers)] == layers, f"{image} was built upon another {base_image}"
    above_base = built["Size"] - base["Size"]
    print(f"{above_base / 1e6:.0f} MB above the base image")
    assert above_base <= MAX_BYTES_ABOVE_BASE


def test_it_has_what_is_locked_and_one_tensorflow(inventory: dict[str, Any]) -> None:
    lock = (REPOSITORY / "requirements" / "image.amd64.lock").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE))
    # For building packages only.
    del locked["setuptools"], locked["wheel"]
    found = {re.sub(r"[-_.]+", "-", name).lower(): text for name, text in inventory["distributions"].items()}
    assert found == {**locked, "ferry-model-server": __version__}
    assert {name for name in found if name.startswith("tensorflow")} == {
        "tensorflow-cpu",
        "tensorflow-serving-api",
    }


def test_it_has_no_dead_weight(inventory: dict[str, Any]) -> None:
    assert not inventory["include"]
    assert inventory["models"] == []


def test_it_has_the_license(inventory: dict[str, Any]) -> None:
    assert len(inventory["license"]) == 1


def test_every_user_can_read_it(inventory: dict[str, Any]) -> None:
    assert inventory["unreadable"] == []


def test_its_byte_code_serves_a_read_only_root(inventory: dict[str, Any]) -> None:
    assert inventory["uncompiled"] == []
    assert inventory["stale"] == []


def test_every_runtime_works(client: docker.DockerClient, image: str) -> None:
    lines = output(client, image, PYTHON, "-c", RUNTIMES, read_only=True, tmpfs={"/tmp": ""}).splitlines()
    assert lines == ["session 2.5", "xla 2.5", "tflite 2.5", "jpeg (2, 2, 3)"]


def test_the_tools_need_nothing_that_the_image_lacks(
    client: docker.DockerClient, image: str, sample: Path
) -> None:
    # Keras and the like are extras of the package, and not in the image.
    options: dict[str, Any] = {"mounts": {sample: f"/models/{MODEL}"}, **HARDENED}
    found = json.loads(output(client, image, "ferry", "inspect", f"/models/{MODEL}", "--json", **options))
    assert found
    flags = (f"--model_name={MODEL}", f"--model_base_path=/models/{MODEL}")
    output(client, image, "ferry", "check", *flags, **options)
    assert output(client, image, "ferry", "serve", "--version").startswith("TensorFlow ModelServer: ")


def test_it_tells_its_versions(client: docker.DockerClient, image: str) -> None:
    lines = output(client, image, "tensorflow_model_server", "--version").splitlines()
    assert lines[0].startswith(f"TensorFlow ModelServer: {__version__}")
    assert re.fullmatch(r"TensorFlow Library: \d+\.\d+\.\d+", lines[1])
    assert len(lines) == 2


def test_usage_names_the_command(client: docker.DockerClient, image: str) -> None:
    lines = output(client, image, "tensorflow_model_server", "--help", status=255).splitlines()
    assert lines[:2] == ["usage: tensorflow_model_server", "Flags:"]


@pytest.mark.parametrize(("argument", "status"), [("--version", 0), ("--help", 255), ("healthcheck", 1)])
def test_small_questions_do_not_load_tensorflow(
    client: docker.DockerClient, image: str, argument: str, status: int
) -> None:
    command = [PYTHON, "-X", "importtime", SERVER]
    with started(client, image, argument, entrypoint=command, ports=()) as server:
        assert server.wait_exit() == status
        imports = server.container.logs(stdout=False).decode()
    modules = set(re.findall(r"^import time:.*\| +([\w.]+)$", imports, re.MULTILINE))
    assert "app.command_line" in modules
    assert {"tensorflow", "numpy", "grpc", "gunicorn"}.isdisjoint(modules)
