"""Clients of TensorFlow Serving that others wrote have to work as they are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from tests.support.process import ServerProcess

CLIENTS = Path(__file__).with_name("clients")
INSTALL_SECONDS = 300
ASK_SECONDS = 60

NOT_FOUND = "Servable not found for request: Latest(absent)"


def output_of(command: list[str], seconds: float = ASK_SECONDS) -> str:
    """What a command prints; fail with its errors if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def skip_without(*programs: str) -> None:
    """Skip the test on a machine that lacks one of `programs`."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


# --- tensorflow-serving-api ---


def test_the_stubs_of_tensorflow_serving_api(grpc_server: ServerProcess) -> None:
    request = grpc_server.predict_request([1.0, 2.0, 5.0])
    response = grpc_server.prediction.Predict(request, timeout=ASK_SECONDS)
    assert list(response.outputs["y"].float_val) == [2.5, 3.0, 4.5]
    assert [dim.size for dim in response.outputs["y"].tensor_shape.dim] == [3]
    assert (response.model_spec.name, response.model_spec.version.value) == ("half_plus_two", 1)
    assert response.model_spec.signature_name == "serving_default"

    ask = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    ask.model_spec.name = "half_plus_two"
    metadata = grpc_server.prediction.GetModelMetadata(ask, timeout=ASK_SECONDS)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert metadata.metadata["signature_def"].Unpack(signatures)
    signature = signatures.signature_def["serving_default"]
    assert (list(signature.inputs), list(signature.outputs)) == (["x"], ["y"])
    assert signature.method_name == "tensorflow/serving/predict"

    state = get_model_status_pb2.GetModelStatusRequest()
    state.model_spec.name = "half_plus_two"
    (status,) = grpc_server.models.GetModelStatus(state, timeout=ASK_SECONDS).model_version_status
    assert (status.version, status.state) == (1, get_model_status_pb2.ModelVersionStatus.AVAILABLE)


def test_the_stubs_of_tensorflow_serving_api_raise_errors(grpc_server: ServerProcess) -> None:
    request = grpc_server.predict_request([1.0])
    request.model_spec.name = "absent"
    with pytest.raises(grpc.RpcError) as raised:
        grpc_server.prediction.Predict(request, timeout=ASK_SECONDS)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert raised.value.details() == NOT_FOUND


# --- curl ---


@pytest.fixture
def curl() -> Callable[..., tuple[int, Any]]:
    """Asks with curl: arguments to status and JSON body."""
    skip_without("curl")

    def ask(*arguments: str) -> tuple[int, Any]:
        shown = output_of(["curl", "--silent", "--show-error", "--write-out", "\n%{http_code}", *arguments])
        body, _, status = shown.rpartition("\n")
        return int(status), json.loads(body)

    return ask


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ('{"instances": [1.0, 2.0, 5.0]}', {"predictions": [2.5, 3.0, 4.5]}),
        ('{"instances": [{"x": 1.0}, {"x": 2}]}', {"predictions": [2.5, 3.0]}),
        ('{"inputs": [1.0, 2.0, 5.0]}', {"outputs": [2.5, 3.0, 4.5]}),
        ('{"inputs": {"x": [1]}, "signature_name": "serving_default"}', {"outputs": [2.5]}),
    ],
)
@pytest.mark.parametrize("options", [[], ["--http1.0"], ["--header", "Transfer-Encoding: chunked"]])
def test_curl_predicts(
    shared_server: ServerProcess,
    curl: Callable[..., tuple[int, Any]],
    sent: str,
    answered: Any,
    options: list[str],
) -> None:
    assert curl(*options, "--data", sent, shared_server.url(":predict")) == (200, answered)


def test_curl_gets_an_error(shared_server: ServerProcess, curl: Callable[..., tuple[int, Any]]) -> None:
    status, body = curl("--data", "{", shared_server.url(":predict"))
    assert (status, list(body)) == (400, ["error"])
    assert body["error"].startswith("JSON Parse error: ")


def test_curl_sends_a_large_body(
    shared_server: ServerProcess, curl: Callable[..., tuple[int, Any]], tmp_path: Path
) -> None:
    # curl asks with `Expect: 100-continue` before it sends a body of more than a mebibyte.
    values = [float(value % 100) for value in range(400_000)]
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"instances": values}))
    status, answer = curl("--data-binary", f"@{body}", shared_server.url(":predict"))
    assert (status, answer) == (200, {"predictions": [value / 2 + 2 for value in values]})


def test_curl_gets_status_and_metadata(
    shared_server: ServerProcess, curl: Callable[..., tuple[int, Any]]
) -> None:
    available = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert curl(shared_server.url()) == (200, {"model_version_status": [available]})
    status, metadata = curl(shared_server.url("/metadata"))
    assert status == 200
    assert metadata["model_spec"] == {"name": "half_plus_two", "version": "1", "signature_name": ""}
    assert "serving_default" in metadata["metadata"]["signature_def"]["signature_def"]


# --- Node ---


@pytest.fixture(scope="session")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the script and the packages of its lock file."""
    skip_without("node", "npm")
    directory = tmp_path_factory.mktemp("clients") / "node"
    shutil.copytree(CLIENTS / "node", directory, ignore=shutil.ignore_patterns("node_modules"))
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts"]
    output_of(["npm", "ci", "--prefix", str(directory), *quiet], INSTALL_SECONDS)
    return directory


def test_node_with_protos_loaded_at_run_time(grpc_server: ServerProcess, node_client: Path) -> None:
    address = f"127.0.0.1:{grpc_server.grpc_port}"
    answers = json.loads(output_of(["node", str(node_client / "predict.js"), address, "half_plus_two"]))

    for predicted in (answers["field"], answers["content"]):
        (alias,) = predicted["outputs"]
        assert (alias, predicted["outputs"]["y"]["dtype"]) == ("y", "DT_FLOAT")
        assert predicted["outputs"]["y"]["float_val"] == [2.5, 3.0, 4.5]
        assert predicted["outputs"]["y"]["tensor_shape"] == {"dim": [{"size": "3"}]}
        assert predicted["model_spec"]["name"] == "half_plus_two"
        assert predicted["model_spec"]["version"] == {"value": "1"}
        assert predicted["model_spec"]["signature_name"] == "serving_default"
    assert answers["absent"] == {"code": "NOT_FOUND", "details": NOT_FOUND}
    (status,) = answers["status"]["model_version_status"]
    assert (status["version"], status["state"]) == ("1", "AVAILABLE")
    assert answers["metadata"]["type_url"].endswith("/tensorflow.serving.SignatureDefMap")
    signature = answers["metadata"]["signatures"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert (list(signature["inputs"]), list(signature["outputs"])) == (["x"], ["y"])


# --- ovmsclient ---

OVMSCLIENT = """\
import json, sys
import numpy
from ovmsclient import ModelNotFoundError, make_grpc_client, make_http_client

kind, address = sys.argv[1:]
client = {"grpc": make_grpc_client, "http": make_http_client}[kind](address)
try:
    client.get_model_status("absent", 1)
except ModelNotFoundError as error:
    absent = str(error)
print(json.dumps({
    # It always sends a version, 0 unless told.
    "predicted": client.predict({"x": numpy.array([1, 2, 5], numpy.float32)}, "half_plus_two", 1).tolist(),
    "status": client.get_model_status("half_plus_two", 1),
    "metadata": client.get_model_metadata("half_plus_two", 1),
    "absent": absent,
}))
"""


@pytest.fixture(scope="session")
def ovmsclient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment with ovmsclient."""
    directory = tmp_path_factory.mktemp("clients") / "ovmsclient"
    output_of([sys.executable, "-m", "venv", str(directory)], INSTALL_SECONDS)
    python = directory / "bin" / "python"
    requirements = str(CLIENTS / "requirements-ovmsclient.txt")
    output_of([str(python), "-m", "pip", "install", "--quiet", "-r", requirements], INSTALL_SECONDS)
    return python


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_ovmsclient(grpc_server: ServerProcess, ovmsclient: Path, kind: str) -> None:
    port = grpc_server.grpc_port if kind == "grpc" else grpc_server.rest_port
    shown = output_of([str(ovmsclient), "-c", OVMSCLIENT, kind, f"localhost:{port}"])
    answers = json.loads(shown)

    assert answers["predicted"] == [2.5, 3.0, 4.5]
    assert answers["status"] == {"1": {"state": "AVAILABLE", "error_code": 0, "error_message": ""}}
    assert "Could not find any versions of model absent" in answers["absent"]
    if kind == "grpc":
        tensor = {"shape": [-1], "dtype": "DT_FLOAT"}
        assert answers["metadata"] == {"model_version": 1, "inputs": {"x": tensor}, "outputs": {"y": tensor}}
    else:  # it knows another server's spelling of the keys only, and hands others' answers on
        signatures = answers["metadata"]["metadata"]["signature_def"]["signature_def"]
        assert signatures["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"


# --- HTTP/2 itself ---


@pytest.fixture
def predict_body(grpc_server: ServerProcess, tmp_path: Path) -> Path:
    """A file with a gRPC message, as it stands in a stream."""
    message = grpc_server.predict_request([1.0, 2.0, 5.0]).SerializeToString()
    body = tmp_path / "body"
    body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    return body


PREDICT = "/tensorflow.serving.PredictionService/Predict"
GRPC_HEADERS = ["--header", "content-type: application/grpc", "--header", "te: trailers"]


def test_curl_with_prior_knowledge(grpc_server: ServerProcess, predict_body: Path, tmp_path: Path) -> None:
    skip_without("curl")
    answer, url = tmp_path / "answer", f"http://127.0.0.1:{grpc_server.grpc_port}{PREDICT}"
    command = ["curl", "--silent", "--show-error", "--http2-prior-knowledge", "--dump-header", "-"]
    shown = output_of([*command, *GRPC_HEADERS, "--data-binary", f"@{predict_body}", "-o", str(answer), url])
    assert shown.startswith("HTTP/2 200")
    assert "grpc-status: 0" in shown.splitlines()
    received = answer.read_bytes()
    response = predict_pb2.PredictResponse.FromString(received[5:])
    assert list(response.outputs["y"].float_val) == [2.5, 3.0, 4.5]


def test_nghttp(grpc_server: ServerProcess, predict_body: Path) -> None:
    skip_without("nghttp")
    url = f"http://127.0.0.1:{grpc_server.grpc_port}{PREDICT}"
    shown = output_of(
        ["nghttp", "--no-dep", "--verbose", "--null-out", *GRPC_HEADERS, "--data", str(predict_body), url]
    )
    assert "grpc-status: 0" in shown
    assert "GOAWAY frame <" in shown


def test_h2load(grpc_server: ServerProcess, predict_body: Path) -> None:
    skip_without("h2load")
    url = f"http://127.0.0.1:{grpc_server.grpc_port}{PREDICT}"
    load = ["--clients=4", "--max-concurrent-streams=16", "--requests=2000"]
    shown = output_of(["h2load", *load, *GRPC_HEADERS, f"--data={predict_body}", url])
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in shown
