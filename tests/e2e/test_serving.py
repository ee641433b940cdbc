"""What a client of a running server sees."""

from __future__ import annotations

import gzip
import json

import grpc
import numpy as np
import pytest
import requests
from google.protobuf import any_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    prediction_service_pb2_grpc,
)

from tests.support.process import ServerProcess


def test_rest_predicts_rows(shared_server: ServerProcess) -> None:
    answer = shared_server.predict([1.0, 2.0, 5.0])
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"predictions": [2.5, 3.0, 4.5]}


def test_rest_predicts_columns_of_a_version_and_a_signature(shared_server: ServerProcess) -> None:
    body = {"signature_name": "serving_default", "inputs": {"x": [1.0, 2.0]}}
    answer = requests.post(shared_server.url("/versions/1:predict"), json=body, timeout=30)
    assert answer.json() == {"outputs": [2.5, 3.0]}


def test_rest_takes_a_large_body(shared_server: ServerProcess) -> None:
    values = [index * 0.25 for index in range(400_000)]
    answer = shared_server.predict(values)
    assert answer.json()["predictions"] == [value / 2 + 2 for value in values]


def test_rest_takes_a_gzip_body(shared_server: ServerProcess) -> None:
    body = gzip.compress(json.dumps({"instances": [1.0]}).encode())
    answer = requests.post(
        shared_server.url(":predict"), data=body, headers={"Content-Encoding": "gzip"}, timeout=30
    )
    assert answer.json() == {"predictions": [2.5]}


def test_rest_takes_a_chunked_body(shared_server: ServerProcess) -> None:
    pieces = iter([b'{"instances"', b": [1.0]}"])
    answer = requests.post(shared_server.url(":predict"), data=pieces, timeout=30)
    assert answer.json() == {"predictions": [2.5]}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (
            "half_plus_two:predict",
            "{",
            400,
            "JSON Parse error: Missing a name for object member. at offset: 1",
        ),
        ("half_plus_two:predict", "", 400, "JSON Parse error: The document is empty"),
        ("half_plus_two:predict", "{}", 400, "Missing 'inputs' or 'instances' key"),
        ("nope:predict", '{"instances": [1]}', 404, "Servable not found for request: Latest(nope)"),
        (
            "half_plus_two/versions/7:predict",
            '{"instances": [1]}',
            404,
            "Servable not found for request: Specific(half_plus_two, 7)",
        ),
        ("half_plus_two/labels/canary:predict", "{}", 400, "Unrecognized servable version label: canary"),
        (
            "half_plus_two:predict",
            '{"signature_name": "nope", "instances": [1]}',
            400,
            'Serving signature name: "nope" not found in signature def',
        ),
        ("half_plus_two", "{}", 400, "Malformed request: POST /v1/models/half_plus_two"),
    ],
)
def test_rest_errors(shared_server: ServerProcess, path: str, body: str, status: int, message: str) -> None:
    answer = requests.post(f"{shared_server.rest}/v1/models/{path}", data=body, timeout=30)
    assert (answer.status_code, answer.json()) == (status, {"error": message})


def test_rest_status(shared_server: ServerProcess) -> None:
    answer = requests.get(shared_server.url(), timeout=30)
    status = {"error_code": "OK", "error_message": ""}
    assert answer.json() == {
        "model_version_status": [{"version": "1", "state": "AVAILABLE", "status": status}]
    }


def test_rest_metadata(shared_server: ServerProcess) -> None:
    answer = requests.get(shared_server.url("/metadata"), timeout=30).json()
    assert answer["model_spec"] == {"name": "half_plus_two", "version": "1", "signature_name": ""}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert signature["method_name"] == "tensorflow/serving/predict"


def test_what_is_not_under_v1_is_a_404_page(shared_server: ServerProcess) -> None:
    answer = requests.get(f"{shared_server.rest}/favicon.ico", timeout=30)
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "text/html")
    assert "<H1>Not Found</H1>" in answer.text


def test_a_head_request_has_no_body(shared_server: ServerProcess) -> None:
    answer = requests.head(shared_server.url(), timeout=30)
    assert (answer.status_code, answer.content) == (400, b"")


def test_grpc_predicts(shared_server: ServerProcess) -> None:
    response = shared_server.prediction.Predict(shared_server.predict_request([1.0, 2.0, 5.0]), timeout=30)
    assert list(response.outputs["y"].float_val) == [2.5, 3.0, 4.5]
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"


def test_grpc_metadata_and_status(shared_server: ServerProcess) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "half_plus_two"
    packed: any_pb2.Any = shared_server.prediction.GetModelMetadata(request, timeout=30).metadata[
        "signature_def"
    ]
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert packed.Unpack(signatures)
    assert "serving_default" in signatures.signature_def
    status_request = get_model_status_pb2.GetModelStatusRequest()
    status_request.model_spec.name = "half_plus_two"
    (status,) = shared_server.models.GetModelStatus(status_request, timeout=30).model_version_status
    assert (status.version, status.state) == (1, get_model_status_pb2.ModelVersionStatus.AVAILABLE)


def test_grpc_errors_carry_code_and_text(shared_server: ServerProcess) -> None:
    request = shared_server.predict_request([1.0])
    request.model_spec.name = "nope"
    with pytest.raises(grpc.RpcError) as raised:
        shared_server.prediction.Predict(request, timeout=30)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert raised.value.details() == "Servable not found for request: Latest(nope)"


def test_grpc_takes_and_gives_large_messages(shared_server: ServerProcess) -> None:
    values = np.arange(25_000_000, dtype=np.float32)
    request = shared_server.predict_request([])
    tensor = request.inputs["x"]
    tensor.tensor_shape.dim[0].size = len(values)
    tensor.tensor_content = values.tobytes()
    assert request.ByteSize() > 100_000_000
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{shared_server.grpc_port}", options=options) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Predict(request, timeout=120)
    np.testing.assert_array_equal(np.array(answer.outputs["y"].float_val, np.float32), values / 2 + 2)
