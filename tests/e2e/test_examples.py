"""Every example, run as a user runs it, against the sample models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from tensorflow_serving.apis import inference_pb2

from tests.conftest import StartServer
from tests.support.process import REPOSITORY, ServerProcess, free_port

SAMPLES = REPOSITORY / "models-sample"
EXAMPLES = REPOSITORY / "examples"
SERVED = ("half_plus_two", "image_classifier", "text_classifier")


@pytest.fixture(scope="module", autouse=True)
def samples() -> None:
    """The sample models that the examples ask; `make test` has built them already."""
    subprocess.run([sys.executable, SAMPLES / "build.py", *SERVED], check=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of the sample models."""
    directory = tmp_path_factory.mktemp("samples")
    entries = (
        f'config {{ name: "{name}" base_path: "{SAMPLES / name}" model_platform: "tensorflow" }}'
        for name in SERVED
    )
    config = directory / "models.config"
    config.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    flags = [f"--model_config_file={config}"]
    server = ServerProcess("", directory / "server.log", name="half_plus_two", flags=flags)
    try:
        yield server.wait_ready()
    finally:
        server.kill()


def run(script: str, port: int) -> subprocess.CompletedProcess[str]:
    """Run an example against `port` of this machine."""
    command = [sys.executable, str(EXAMPLES / script), f"--port={port}"]
    environment = dict(os.environ)
    if script.endswith(".sh"):
        command = [str(EXAMPLES / script)]
        environment["PORT"] = str(port)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("script", "protocol", "expected"),
    [
        ("rest_predict.py", "rest", "predictions: [2.5, 3.0, 4.5]"),
        ("grpc_predict.py", "grpc", "y: [2.5, 3.0, 4.5]"),
        ("curl.sh", "rest", "[2.5,3.0,4.5]"),
        ("rest_image.py", "rest", "class_"),
        ("grpc_image.py", "grpc", "array: best is number"),
        ("rest_text.py", "rest", "positive"),
    ],
)
def test_example(server: ServerProcess, script: str, protocol: str, expected: str) -> None:
    done = run(script, server.rest_port if protocol == "rest" else server.grpc_port)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


@pytest.mark.parametrize("script", ["rest_predict.py", "grpc_predict.py", "curl.sh"])
def test_an_example_without_a_server_says_so(script: str) -> None:
    done = run(script, free_port())
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1


def test_classify_and_regress_of_the_sample(server: ServerProcess) -> None:
    examples = {"examples": [{"x": 2.0}, {"x": 4.0}]}
    for verb, signature, expected in (
        ("regress", "regress_x_to_y", [3.0, 4.0]),
        ("classify", "classify_x_to_y", [[["", 3.0]], [["", 4.0]]]),
    ):
        body = {"signature_name": signature, **examples}
        answer = requests.post(server.url(f":{verb}"), json=body, timeout=30)
        assert (answer.status_code, answer.json()) == (200, {"results": expected})


def test_multi_inference_of_the_sample(server: ServerProcess) -> None:
    request = inference_pb2.MultiInferenceRequest()
    for signature, method in (("regress_x_to_y2", "regress"), ("classify_x_to_y", "classify")):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name = "half_plus_two"
        task.model_spec.signature_name = signature
    example = request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(2.0)
    first, second = server.prediction.MultiInference(request, timeout=30).results
    assert first.regression_result.regressions[0].value == 4.0
    assert second.classification_result.classifications[0].classes[0].score == 3.0


def test_the_warm_up_file_of_the_example_is_replayed(start_server: StartServer, tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "half_plus_two", tmp_path / "model")
    version = tmp_path / "model" / "00000123"
    command = [sys.executable, str(EXAMPLES / "write_warmup.py"), str(version)]
    subprocess.run(command, check=True)
    server = start_server(tmp_path / "model").wait_ready()
    assert "Number of warmup records read: 4." in server.log


def test_the_warm_up_example_without_a_version_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "write_warmup.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.startswith(f"{tmp_path} holds no saved_model.pb")


def test_every_example_is_tested_and_in_the_table() -> None:
    table = (EXAMPLES / "README.md").read_text()
    tested = Path(__file__).read_text()
    for script in EXAMPLES.iterdir():
        if script.suffix in {".py", ".sh"}:
            assert script.name in table
            assert script.name in tested
