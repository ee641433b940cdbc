"""TensorFlow Lite models, as a client of a running server sees them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from tests.conftest import StartServer
from tests.support import models, tflite_models
from tests.support.process import ServerProcess, wait_until

PREFER = ["--prefer_tflite_model"]


def predict(server: ServerProcess, signature: str = "", model: str = "", **inputs: Any) -> dict[str, Any]:
    """A gRPC predict request to `model`, or to the server's; the outputs."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model or server.name, signature
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    answer = server.prediction.Predict(request, timeout=30)
    return {alias: tf.make_ndarray(tensor).tolist() for alias, tensor in answer.outputs.items()}


def test_model_tflite_wins_if_preferred_and_new_versions_of_both_kinds_are_picked_up(
    start_server: StartServer, tmp_path: Path
) -> None:
    models.save_half_plus(tmp_path / "1", 3.0)
    tflite_models.save_half_plus(tmp_path / "1", 2.0)
    flags = [*PREFER, "--num_tflite_pools=2", "--num_tflite_interpreters_per_pool=3"]
    server = start_server(tmp_path, flags=flags).wait_ready()
    assert "Status: success: OK. 6 interpreters." in server.log
    assert "Signature serving_default warmed up" in server.log
    assert server.predict([1.0, 2.0, 5.0]).json() == {"predictions": [2.5, 3.0, 4.5]}
    assert predict(server, serving_default_x=np.array([1, 2], np.float32)) == {"PartitionedCall": [2.5, 3.0]}

    models.save_half_plus(tmp_path / "2", 4.0)
    wait_until(lambda: server.states().get(2) == "AVAILABLE", "version 2, a SavedModel, is available")
    assert server.predict([1.0]).json() == {"predictions": [4.5]}
    tflite_models.save_half_plus(tmp_path / "3", 5.0)
    wait_until(lambda: server.states().get(3) == "AVAILABLE", "version 3 is available")
    assert server.predict([1.0]).json() == {"predictions": [5.5]}
    wait_until(lambda: server.states().get(1) == "END", "version 1 is unloaded")


def test_model_tflite_is_not_looked_at_unless_preferred(start_server: StartServer, tmp_path: Path) -> None:
    models.save_half_plus(tmp_path / "1", 3.0)
    tflite_models.save_half_plus(tmp_path / "1", 2.0)
    assert start_server(tmp_path).wait_ready().predict([1.0]).json() == {"predictions": [3.5]}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of `two`: a and b to sum and twice, and triple. And of `pick`: words and indices to words."""
    directory = tmp_path_factory.mktemp("tflite")
    path = tflite_models.save_two_inputs(directory / "two" / "1")
    a = ("serving_default_a:0", 1, [1, 2])
    b = ("serving_default_b:0", 9, [1])
    outputs = {"sum": ("PartitionedCall:0", 1, [1, 2]), "twice": ("PartitionedCall:1", 9, [1])}
    signature = tflite_models.signature_def({"a": a, "b": b}, outputs)
    tflite_models.store_signatures(path, {"serving_default": signature})
    tflite_models.save_pick(directory / "pick" / "1")
    entries = (
        f'config {{ name: "{name}" base_path: "{directory / name}" model_platform: "tensorflow" }}'
        for name in ("two", "pick")
    )
    config = directory / "models.config"
    config.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    flags = [*PREFER, f"--model_config_file={config}"]
    server = ServerProcess("", directory / "server.log", name="two", flags=flags)
    try:
        yield server.wait_ready()
    finally:
        server.kill()


def test_several_inputs_and_outputs_and_signatures(two: ServerProcess) -> None:
    answer = two.predict([{"a": [1, 2], "b": 10}, {"a": [3, 4], "b": 20}])
    assert answer.json() == {
        "predictions": [{"sum": [11.0, 12.0], "twice": 20}, {"sum": [23.0, 24.0], "twice": 40}]
    }
    outputs = predict(two, a=np.ones((3, 2), np.float32), b=np.array([1, 2, 3]))
    assert outputs == {"sum": [[2.0, 2.0], [3.0, 3.0], [4.0, 4.0]], "twice": [2, 4, 6]}
    assert predict(two, "triple", a=np.ones((1, 2), np.float32)) == {"t": [[3.0, 3.0]]}
    body = {"signature_name": "triple", "inputs": {"a": [[1, 2]]}}
    assert requests.post(two.url(":predict"), json=body, timeout=30).json() == {"outputs": [[3.0, 6.0]]}


def test_metadata_by_both_ports(two: ServerProcess) -> None:
    metadata = requests.get(two.url("/metadata"), timeout=30).json()
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "triple"}
    assert signatures["serving_default"]["inputs"]["a"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {
            "dim": [{"size": "1", "name": ""}, {"size": "2", "name": ""}],
            "unknown_rank": False,
        },
        "name": "serving_default_a:0",
    }
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = two.name
    answer = two.prediction.GetModelMetadata(request, timeout=30)
    unpacked = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(unpacked)
    assert set(unpacked.signature_def) == {"serving_default", "triple"}


def test_errors_of_requests_by_both_ports(two: ServerProcess) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        predict(two, a=np.ones((1, 2)), b=np.array([1]))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == "Expects arg[0] to be float but double is provided"
    # a is [3, 2], b is [2]: the sum has no shape.
    with pytest.raises(grpc.RpcError) as raised:
        predict(two, a=np.ones((3, 2), np.float32), b=np.array([1, 2]))
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert raised.value.details() == "Failed to allocate tensors"
    answer = requests.post(two.url(":predict"), json={"inputs": {"a": [[1, 2]] * 3, "b": [1, 2]}}, timeout=30)
    assert (answer.status_code, answer.json()) == (500, {"error": "Failed to allocate tensors"})
    assert predict(two, a=np.ones((1, 2), np.float32), b=np.array([1]))["twice"] == [2]


def test_strings_by_both_ports(two: ServerProcess) -> None:
    words, indices = np.array([b"a\0", b"\xff", b""], object), np.array([1, 0], np.int32)
    outputs = predict(two, model="pick", serving_default_words=words, serving_default_indices=indices)
    assert outputs == {"PartitionedCall": [b"\xff", b"a\0"]}
    raw = {"b64": base64.b64encode(b"\xff").decode()}
    inputs = {"serving_default_words": ["word", raw], "serving_default_indices": [0, 0, 0]}
    answer = requests.post(f"{two.rest}/v1/models/pick:predict", json={"inputs": inputs}, timeout=30)
    assert answer.json() == {"outputs": ["word"] * 3}


def test_a_damaged_model_fails_the_start_with_its_cause(start_server: StartServer, tmp_path: Path) -> None:
    file = tflite_models.save_half_plus(tmp_path / "1") / "model.tflite"
    file.write_bytes(file.read_bytes()[:-10])
    server = start_server(tmp_path, flags=[*PREFER, "--max_num_load_retries=0"])
    assert server.wait_exit() == 255
    assert "INVALID_ARGUMENT: Cannot build FlatBufferModel from buffer." in server.log
    assert f"{file} ({file.stat().st_size} bytes): The model is not a valid Flatbuffer buffer" in server.log
