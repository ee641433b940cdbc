from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

from app.engine.session_model import SessionModel
from app.errors import Code, ServingError
from app.options import Options
from app.server import Server
from tests.support import models
from tests.support.process import accepts, free_port
from tests.support.stores import WebServer


def test_a_server_starts_with_its_model_and_stops(half_plus_two: Path) -> None:
    port = free_port()
    server = Server(Options(port=port, model_name="m", model_base_path=str(half_plus_two)))
    assert not accepts(port)
    server.start()
    assert accepts(port)
    server.drain(time.monotonic() + 5)
    assert not accepts(port)
    server.stop()


def test_a_model_that_cannot_be_loaded_fails_the_start(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    options = Options(port=free_port(), model_name="m", model_base_path=str(tmp_path), max_num_load_retries=0)
    server = Server(options)
    with pytest.raises(ServingError) as raised:
        server.start()
    assert raised.value.code is Code.UNKNOWN
    assert raised.value.message.startswith(
        "1 servable(s) did not become available: {{{name: m version: 3} due to error: NOT_FOUND: Specified"
    )
    assert raised.value.message.endswith("}, }")
    server.stop()


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base paths `with` and `without` a warm-up file, of one predict request, for `save_counting`."""
    directory = tmp_path_factory.mktemp("counting")
    for name in ("with", "without"):
        models.save_counting(directory / name / "1")
    log = prediction_log_pb2.PredictionLog()
    tensor = log.predict_log.request.inputs["x"]
    tensor.dtype = 1
    tensor.tensor_shape.dim.add(size=1)
    models.write_warmup(directory / "with" / "1", log)
    return directory


@pytest.mark.parametrize(
    ("base_path", "options", "expected"),
    [
        ("with", {}, 1),
        ("with", {"enable_automatic_warmup": False}, 1),
        ("with", {"num_request_iterations_for_warmup": 5}, 5),
        ("with", {"enable_model_warmup": False}, 0),
        ("without", {}, 1),
        ("without", {"num_request_iterations_for_warmup": 5}, 1),
        ("without", {"enable_automatic_warmup": False}, 0),
        ("without", {"enable_model_warmup": False}, 0),
    ],
)
def test_what_warms_a_version_up(
    counting: Path, base_path: str, options: dict[str, Any], expected: int
) -> None:
    port = free_port()
    server = Server(Options(port=port, model_name="m", model_base_path=str(counting / base_path), **options))
    server.start()
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.model_spec.signature_name = "count"
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Predict(request, timeout=30)
    server.drain(time.monotonic() + 5)
    server.stop()
    assert answer.outputs["predict"].int64_val == [expected]


def test_a_model_that_fails_to_warm_up_is_closed(
    half_plus_two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[SessionModel] = []
    close = SessionModel.close

    def close_and_tell(model: SessionModel) -> None:
        closed.append(model)
        close(model)

    monkeypatch.setattr(SessionModel, "close", close_and_tell)
    shutil.copytree(half_plus_two, tmp_path / "model")
    models.write_warmup(tmp_path / "model" / "1", b"no such thing")
    path = str(tmp_path / "model")
    server = Server(Options(port=free_port(), model_name="m", model_base_path=path, max_num_load_retries=0))
    with pytest.raises(ServingError, match="Failed to parse warmup record: no such thing from "):
        server.start()
    server.stop()
    assert len(closed) == 1


def test_a_bad_monitoring_file_fails_before_anything_is_loaded(half_plus_two: Path, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    options = Options(
        port=free_port(),
        rest_api_port=free_port(),
        model_base_path=str(half_plus_two),
        monitoring_config_file=missing,
    )
    with pytest.raises(ServingError) as raised:
        Server(options)
    assert str(raised.value) == f"NOT_FOUND: {missing}; No such file or directory"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "NOT_FOUND: {file}; No such file or directory"),
        ("", "INVALID_ARGUMENT: {file}; Invalid argument"),
        ("max_batch_size: 4", "INVALID_ARGUMENT: Invalid protobuf file: '{file}'"),
        ("num_batch_threads { value: 0 }", "INVALID_ARGUMENT: num_batch_threads must be positive; was 0"),
    ],
)
def test_a_bad_batching_file_fails_before_anything_is_loaded(
    half_plus_two: Path, tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "batching.config"
    if text is not None:
        file.write_text(text)
    options = Options(
        port=free_port(),
        model_base_path=str(half_plus_two),
        enable_batching=True,
        batching_parameters_file=str(file),
    )
    with pytest.raises(ServingError) as raised:
        Server(options)
    assert str(raised.value) == message.format(file=file)


@pytest.mark.parametrize("rest_api_port", [0, 8500])
def test_without_a_rest_port_of_its_own_the_monitoring_file_is_not_read(
    half_plus_two: Path, rest_api_port: int
) -> None:
    Server(
        Options(
            rest_api_port=rest_api_port,
            model_base_path=str(half_plus_two),
            monitoring_config_file="/missing",
        )
    )


def test_a_remote_model_that_cannot_be_loaded_is_named_by_its_uri(web: WebServer, tmp_path: Path) -> None:
    (tmp_path / "web/m/3").mkdir(parents=True)
    (tmp_path / "web/m/3/saved_model.pb").write_bytes(b"no model")
    options = Options(
        port=free_port(),
        model_name="m",
        model_base_path=f"{web.address}/m",
        max_num_load_retries=0,
        remote_poll_wait_seconds=1,
        model_cache_dir=str(tmp_path / "cache"),
    )
    server = Server(options)
    with pytest.raises(ServingError) as raised:
        server.start()
    server.stop()
    assert (
        f"due to error: DATA_LOSS: Can't parse {web.address}/m/3/saved_model.pb (8 b" in raised.value.message
    )
    assert list((tmp_path / "cache/versions").iterdir()) == [], "what is damaged is not kept"
