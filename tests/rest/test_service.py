from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.config.model_config import ModelConfig
from app.engine import savedmodel
from app.engine.model import Model
from app.engine.session_config import session_config
from app.errors import Code, not_found
from app.lifecycle.manager import Manager
from app.lifecycle.states import State, StateBoard, VersionStatus
from app.options import Options
from app.rest.service import Reply, RestService
from app.telemetry.serving_metrics import ServingMetrics
from tests.engine.conftest import load as load_model
from tests.support import models
from tests.support.copies import both, pipe


@pytest.fixture(scope="module")
def metrics() -> ServingMetrics:
    """Where the service counts."""
    return ServingMetrics.make()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, metrics: ServingMetrics) -> Iterator[RestService]:
    """A service with the models `half` (version 1) and `two` (version 7)."""
    directory = tmp_path_factory.mktemp("models")
    models.save_half_plus(directory / "half" / "1")
    models.save_two_inputs(directory / "two" / "7")
    board = StateBoard()
    config = session_config(Options())

    def load(model: str, version: int, path: str) -> Model:
        del model, version
        return savedmodel.load(path, ["serve"], config)

    manager: Manager[Model] = Manager(load, board)
    manager.labels.replace({})
    manager.start()
    manager.set_aspired("half", {1: str(directory / "half" / "1")})
    manager.set_aspired("two", {7: str(directory / "two" / "7")})
    deadline = time.monotonic() + 60
    for name in ("half", "two"):
        loaded = lambda name=name: any(s.state is State.AVAILABLE for s in board.versions(name))  # noqa: E731
        assert board.wait(loaded, deadline)
    yield RestService(manager, board, Options(), metrics)
    manager.stop()


def post(service: RestService, path: str, document: Any) -> tuple[int, Any]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    reply = service.answer("POST", f"/v1/models/{path}", body)
    return reply.status, json.loads(reply.body)


def test_rows_and_columns(service: RestService) -> None:
    assert post(service, "half:predict", {"instances": [1.0, 2.0, 5.0]}) == (
        200,
        {"predictions": [2.5, 3.0, 4.5]},
    )
    assert post(service, "half:predict", {"inputs": [1.0]}) == (200, {"outputs": [2.5]})
    assert post(service, "half:predict", {"instances": [{"x": 1.0}]}) == (200, {"predictions": [2.5]})


def test_several_inputs_and_outputs(service: RestService) -> None:
    rows = {"instances": [{"a": [1, 2], "b": 3}, {"a": [4, 5], "b": 6}]}
    assert post(service, "two:predict", rows) == (
        200,
        {"predictions": [{"sum": [4.0, 5.0], "twice": 6}, {"sum": [10.0, 11.0], "twice": 12}]},
    )
    columns = {"inputs": {"a": [[1, 2]], "b": [3]}}
    assert post(service, "two:predict", columns) == (200, {"outputs": {"sum": [[4.0, 5.0]], "twice": [6]}})


@pytest.mark.parametrize(
    ("path", "document", "status", "error"),
    [
        # A bad body is told before a missing model, a missing model before bad instances.
        ("nope:predict", b"[", 400, "JSON Parse error: Invalid value. at offset: 1"),
        ("nope:predict", {}, 404, "Servable not found for request: Latest(nope)"),
        ("half/versions/3:predict", {}, 404, "Servable not found for request: Specific(half, 3)"),
        ("half/labels/l:predict", {}, 400, "Unrecognized servable version label: l"),
        ("half:predict", {"signature_name": 1}, 400, None),
        (
            "half:predict",
            {"signature_name": "s", "inputs": 1},
            400,
            'Serving signature name: "s" not found in',
        ),
        ("half:predict", {"instances": []}, 400, None),
        ("nope:classify", {}, 400, "JSON Value: {} When method is classify, key 'examples' is expected"),
        ("nope:regress", {"examples": [{}]}, 404, "Servable not found for request: Latest(nope)"),
        ("half:classify", {"examples": [{}]}, 400, "No classification inputs found in SignatureDef"),
        ("half:regress", {"examples": [{}]}, 400, "No regression inputs found in SignatureDef"),
        ("half:explain", {}, 400, "Malformed request: POST /v1/models/half:explain"),
        (
            "half:predict",
            {"signature_name": "__saved_model_init_op", "inputs": 1},
            400,
            "Failed to get input map",
        ),
    ],
)
def test_errors_in_the_order_of_the_checks(
    service: RestService, path: str, document: Any, status: int, error: str | None
) -> None:
    found, answer = post(service, path, document)
    assert found == status
    assert answer["error"].startswith(error or "JSON Value: {")


def test_a_passed_deadline_is_a_504(service: RestService) -> None:
    reply = service.answer("POST", "/v1/models/half:predict", b'{"inputs": [1]}', deadline=time.monotonic())
    assert reply.status == 504


def test_a_version_beyond_int64_has_an_empty_answer(service: RestService) -> None:
    reply = service.answer("GET", "/v1/models/half/versions/18446744073709551615", b"")
    assert (reply.status, reply.body) == (400, b"")


def test_status(service: RestService) -> None:
    reply = service.answer("GET", "/v1/models/two/versions/7", b"")
    status = {"error_code": "OK", "error_message": ""}
    expected = {"model_version_status": [{"version": "7", "state": "AVAILABLE", "status": status}]}
    assert json.loads(reply.body) == expected
    assert service.answer("GET", "/v1/models/two/versions/8", b"").status == 404


def test_metadata_prints_every_field(service: RestService) -> None:
    answer = json.loads(service.answer("GET", "/v1/models/half/metadata", b"").body)
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}],
        "unknown_rank": False,
    }
    assert signature["defaults"] == {}


def test_an_unexpected_failure_is_an_internal_error() -> None:
    # No registry: the failure stands for any mistake of ours.
    service = RestService(None, StateBoard(), Options())  # type: ignore[arg-type]
    reply = service.answer("POST", "/v1/models/m:predict", b'{"inputs": 1}')
    assert reply.status == 500
    assert json.loads(reply.body)["error"].startswith("AttributeError")


@pytest.mark.parametrize(
    ("request_line", "body", "told"),
    [
        ("POST /v1/models/half:predict", b'{"inputs": [1]}', (Code.OK, "half", "predict")),
        ("POST /v1/models/ha%6cf:predict", b'{"inputs": [1]}', (Code.OK, "half", "predict")),
        ("GET /v1/models/half", b"", (Code.OK, "half", "")),
        ("GET /v1/models/half/metadata", b"", (Code.OK, "half", "")),
        ("GET /v1/models/nope", b"", (Code.NOT_FOUND, "nope", "")),
        ("POST /v1/models/half:predict", b"", (Code.INVALID_ARGUMENT, "half", "")),
        ("POST /v1/models/half", b"", (Code.INVALID_ARGUMENT, "", "")),
        ("PUT /v1/models/half:predict", b"", (Code.INVALID_ARGUMENT, "", "")),
        ("GET /v1/models/half/versions/9223372036854775808", b"", (Code.INVALID_ARGUMENT, "", "")),
    ],
)
def test_what_metrics_are_told_of_a_reply(
    service: RestService, request_line: str, body: bytes, told: tuple[Code, str, str]
) -> None:
    method, target = request_line.split()
    reply = service.answer(method, target, body)
    assert (reply.code, reply.model, reply.api) == told
    assert (reply.micros > 0) is (reply.code is Code.OK)


def test_each_reply_is_counted_and_the_latency_of_good_ones() -> None:
    metrics = ServingMetrics.make()
    service = RestService(None, StateBoard(), Options(), metrics)  # type: ignore[arg-type]
    service.count(Reply(200, b"", Code.OK, "m", "predict", 15))
    service.count(Reply(200, b"", Code.OK, "m", "", 15))
    service.count(Reply(404, b"", Code.NOT_FOUND, "m"))
    service.count(Reply(400, b"", Code.INVALID_ARGUMENT))
    assert metrics.request_count.cells() == [
        (("", "INVALID_ARGUMENT"), 1),
        (("m", "NOT_FOUND"), 1),
        (("m", "OK"), 2),
    ]
    assert [labels for labels, _ in metrics.request_micros.cells()] == [
        ("m", "", "REST"),
        ("m", "predict", "REST"),
    ]


def test_runs_are_observed_by_model_and_api(service: RestService, metrics: ServingMetrics) -> None:
    post(service, "two:predict", {"inputs": {"a": [[1, 2]], "b": [3]}})
    assert ("two", "Predict", "TF1") in dict(metrics.runtime_micros.cells())


def test_the_stages_of_requests_that_ran_a_model_are_told_apart(
    service: RestService, metrics: ServingMetrics
) -> None:
    body = json.dumps({"inputs": {"a": [[1, 2]], "b": [3]}}).encode()
    reply = service.answer("POST", "/v1/models/two:predict", body)
    assert len(reply.stages) == 3
    assert min(reply.stages) >= 0
    assert service.answer("GET", "/v1/models/two", b"").stages == ()
    service.count(reply)
    assert ("two", "predict", "REST", "decode") in dict(metrics.ferry.stages.cells())


def test_the_list_of_models() -> None:
    board = StateBoard()
    board.publish("m", VersionStatus(2**60, State.AVAILABLE))
    board.publish("m", VersionStatus(3, State.END, not_found("gone")))
    models = {
        "m": ModelConfig("m", "/m", labels={"stable": 2**60}),
        "absent": ModelConfig("absent", "/a"),
    }
    service = RestService(None, board, Options(), models=lambda: models)  # type: ignore[arg-type]
    reply = service.answer("GET", "/v1/models", b"")
    assert (reply.status, reply.model) == (200, "")
    assert json.loads(reply.body) == {
        "models": [
            {"name": "absent", "labels": {}, "model_version_status": []},
            {
                "name": "m",
                "labels": {"stable": str(2**60)},
                "model_version_status": [
                    {
                        "version": str(2**60),
                        "state": "AVAILABLE",
                        "status": {"error_code": "OK", "error_message": ""},
                    },
                    {
                        "version": "3",
                        "state": "END",
                        "status": {"error_code": "NOT_FOUND", "error_message": "gone"},
                    },
                ],
            },
        ]
    }


@pytest.mark.parametrize(
    ("target", "model"), [("/v1/models/half:predict", "half"), ("/v1/models/half:nope", "")]
)
def test_a_request_that_timed_out(service: RestService, target: str, model: str) -> None:
    reply = service.timed_out("POST", target)
    assert (reply.status, reply.code, reply.model) == (504, Code.DEADLINE_EXCEEDED, model)
    assert json.loads(reply.body) == {"error": "Timed out waiting for notification"}


@pytest.mark.parametrize("rows", [2, 5000])  # large bodies are read in another way
def test_inputs_are_copied_once_to_the_batch(half_plus_two: Path, rows: int) -> None:
    with pipe(load_model(half_plus_two / "1"), "m", rows) as way:
        service = RestService(way.manager, way.board, Options(), ServingMetrics.make())
        documents = [{"instances": [float(first + row) for row in range(rows)]} for first in (0, 10000)]
        answers = both(lambda document: post(service, "m:predict", document), *documents)
        assert [(status, answer["predictions"][1]) for status, answer in answers] == [
            (200, 2.5),
            (200, 5002.5),
        ]
        way.check()
