"""Versions with a warm-up file: replayed before they are served, or not served at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tests.conftest import StartServer
from tests.support import models
from tests.support.process import ServerProcess, wait_until


def predict_log(signature: str = "") -> Any:
    """A recorded Predict request for x = [1]."""
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "whatever"
    request.model_spec.signature_name = signature
    request.inputs["x"].CopyFrom(models.tensorflow().make_tensor_proto([1.0]))
    return log


def predictions(server: ServerProcess) -> int:
    """How often the model of `save_counting` has run its default signature."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = server.name
    request.model_spec.signature_name = "count"
    return int(server.prediction.Predict(request, timeout=30).outputs["predict"].int64_val[0])


def test_the_requests_of_the_file_run_before_the_version_is_served(
    start_server: StartServer, tmp_path: Path
) -> None:
    version = models.save_counting(tmp_path / "model" / "1")
    file = models.write_warmup(version, predict_log(), predict_log())
    server = start_server(tmp_path / "model", flags=["--num_request_iterations_for_warmup=3"]).wait_ready()
    assert predictions(server) == 6
    lines = [
        f"Starting to read warmup data for model at {file} with model-warmup-options",
        f"Finished reading warmup data for model at {file}. Number of warmup records read: 2. Elapsed time",
        "Successfully loaded servable version {name: model version: 1}",
    ]
    places = [server.log.index(line) for line in lines]
    assert places == sorted(places)
    assert "warmed up in" not in server.log  # the file is all there is to it
    assert "has no effect" not in server.log


def test_a_request_that_fails_keeps_its_version_out_and_the_old_one_in_service(
    start_server: StartServer, tmp_path: Path
) -> None:
    models.save_half_plus(tmp_path / "model" / "1", 1.0)
    server = start_server(tmp_path / "model", flags=["--max_num_load_retries=0"]).wait_ready()
    assert f"No warmup data file found at {tmp_path}/model/1/assets.extra/" in server.log
    staged = models.save_half_plus(tmp_path / "staged", 2.0)
    models.write_warmup(staged, predict_log(), predict_log(signature="nope"))
    staged.rename(tmp_path / "model" / "2")
    wait_until(lambda: server.states().get(2) == "END", "version 2 is given up")
    (status,) = requests.get(server.url("/versions/2"), timeout=30).json()["model_version_status"]
    assert status["status"] == {
        "error_code": "FAILED_PRECONDITION",
        "error_message": 'Serving signature key "nope" not found.',
    }
    assert server.states()[1] == "AVAILABLE"
    assert server.predict([0.0]).json() == {"predictions": [1.0]}
    file = tmp_path / "model" / "2" / "assets.extra" / "tf_serving_warmup_requests"
    assert f"Record 2 of the warm-up file {file} fails, and the load with it." in server.log
