"""Every recorded case: the answer has to be the one that TensorFlow Serving gave.

`cases.jsonl` holds a request and its answer a line. Bodies are bytes as latin-1 text, and `ZOO` stands for
the directory of the models. The cases that reload the configuration come last, so their order is kept.
"""

from __future__ import annotations

import http.client
import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import requests
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from app.options import TRANSPORTS
from tests.conformance import zoo
from tests.support.process import ServerProcess, wait_until

TIMEOUT_SECONDS = 30
RELATIVE_TOLERANCE = 2e-6  # of numbers that are equal as float32

CONFIG = """\
model_config_list {{
  config {{ name: "half_plus_two" base_path: "{zoo}/half_plus_two" model_platform: "tensorflow" }}
  config {{ name: "dtypes" base_path: "{zoo}/dtypes" model_platform: "tensorflow" }}
  config {{ name: "multi" base_path: "{zoo}/multi" model_platform: "tensorflow" }}
  config {{ name: "strings" base_path: "{zoo}/strings" model_platform: "tensorflow" }}
  config {{ name: "shapes" base_path: "{zoo}/shapes" model_platform: "tensorflow" }}
  config {{ name: "clsreg" base_path: "{zoo}/clsreg" model_platform: "tensorflow" }}
  config {{ name: "imgsum" base_path: "{zoo}/imgsum" model_platform: "tensorflow" }}
  config {{
    name: "versioned"
    base_path: "{zoo}/versioned"
    model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "canary" value: 2 }}
  }}
  config {{ name: "latest" base_path: "{zoo}/versioned" model_platform: "tensorflow" }}
}}
"""

# TensorFlow Serving answers an error where Ferry has an answer: docs/differences.md.
ADDED = ("v1-models",)

# Request and response of each method; a method that does not exist is called with those of Predict.
MESSAGES: Mapping[str, tuple[Any, Any]] = {
    "Predict": (predict_pb2.PredictRequest, predict_pb2.PredictResponse),
    "Classify": (classification_pb2.ClassificationRequest, classification_pb2.ClassificationResponse),
    "Regress": (regression_pb2.RegressionRequest, regression_pb2.RegressionResponse),
    "MultiInference": (inference_pb2.MultiInferenceRequest, inference_pb2.MultiInferenceResponse),
    "GetModelMetadata": (
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataResponse,
    ),
    "GetModelStatus": (
        get_model_status_pb2.GetModelStatusRequest,
        get_model_status_pb2.GetModelStatusResponse,
    ),
    "HandleReloadConfigRequest": (
        model_management_pb2.ReloadConfigRequest,
        model_management_pb2.ReloadConfigResponse,
    ),
}


def read_cases(kind: str) -> list[Any]:
    """The recorded cases of one kind, as parameters of a test."""
    parameters = []
    for line in Path(__file__).with_name("cases.jsonl").read_text().splitlines():
        case = json.loads(line)
        if case["kind"] == kind and case["name"] not in ADDED:
            parameters.append(pytest.param(case, id=case["name"]))
    return parameters


class Golden(NamedTuple):
    """The server that is asked, and where its models lie."""

    server: ServerProcess
    models: Path

    def recorded(self, text: str) -> str:
        """What was recorded, with the place of these models in it."""
        return text.replace("ZOO", str(self.models))


@pytest.fixture(scope="session", params=TRANSPORTS)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Golden]:
    """One server for all cases over a transport."""
    directory = tmp_path_factory.mktemp("golden")
    models = directory / "models"
    zoo.build(models)
    config = directory / "models.config"
    config.write_text(CONFIG.format(zoo=models))
    monitoring = directory / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    flags = [
        f"--model_config_file={config}",
        "--allow_version_labels_for_unavailable_models=true",
        f"--monitoring_config_file={monitoring}",
        f"--grpc_transport={request.param}",
    ]
    server = ServerProcess(models / "half_plus_two", directory / "server.log", flags=flags)
    try:
        server.wait_ready()
        # A server is ready with one version of each model; some of the others were written a moment ago.
        for model, versions in {"versioned": ["2", "1"], "latest": ["3"]}.items():
            wait_until(partial(has_available, server, model, versions), f"{model} {versions} available")
        yield Golden(server, models)
    finally:
        server.kill()


def has_available(server: ServerProcess, model: str, versions: list[str]) -> bool:
    """Whether exactly these versions of a model are available."""
    answer = requests.get(f"{server.rest}/v1/models/{model}", timeout=TIMEOUT_SECONDS).json()
    states = answer["model_version_status"]
    return [state["version"] for state in states if state["state"] == "AVAILABLE"] == versions


def without_function_numbers(text: str) -> str:
    """`text` without the numbers that TensorFlow gives to functions as it traces them."""
    return re.sub(r"__inference_[^\s{}]*_\d+", "__inference_function", text)


def same_value(recorded: Any, answered: Any) -> bool:
    """Whether two JSON values are equal, numbers as float32."""
    match recorded, answered:
        case (bool(), _) | (_, bool()):
            return recorded is answered
        case int(), int():
            return recorded == answered
        case int() | float(), int() | float():
            if math.isnan(recorded) or math.isnan(answered):
                return math.isnan(recorded) and math.isnan(answered)
            return math.isclose(recorded, answered, rel_tol=RELATIVE_TOLERANCE)
        case dict(), dict():
            return recorded.keys() == answered.keys() and all(
                same_value(value, answered[key]) for key, value in recorded.items()
            )
        case list(), list():
            return len(recorded) == len(answered) and all(map(same_value, recorded, answered))
    return type(recorded) is type(answered) and bool(recorded == answered)


@pytest.mark.parametrize(
    ("recorded", "answered", "same"),
    [
        ("[1.0, 2]", "[1.0000001, 2.0]", True),
        ("1.0", "1.00001", False),
        ("9223372036854775807", "9223372036854775806", False),
        ("[NaN, Infinity, -Infinity]", "[NaN, Infinity, -Infinity]", True),
        ("Infinity", "-Infinity", False),
        ("NaN", "0.0", False),
        ("NaN", '"NaN"', False),
        ("true", "1", False),
        ("0", "false", False),
        ("null", "null", True),
        ('{"a": 1, "b": []}', '{"b": [], "a": 1}', True),
        ('{"a": 1}', '{"a": 1, "b": 2}', False),
        ("[1]", "[1, 1]", False),
        ("[]", "{}", False),
    ],
)
def test_json_values_are_compared(recorded: str, answered: str, same: bool) -> None:
    assert same_value(json.loads(recorded), json.loads(answered)) is same


def test_function_numbers_are_ignored() -> None:
    text = "[[{{function_node __inference_<lambda>_381}}{{node add_2}}]]"
    assert without_function_numbers(text) == "[[{{function_node __inference_function}}{{node add_2}}]]"


def check_metrics(recorded: str, answered: str) -> None:
    """Compare pages by their form; what they count was asked before, and is not the same twice.

    TensorFlow's C++ registry holds many metrics that mean nothing here: of its names Ferry lists a part.
    """
    wanted, found = types_of(recorded), types_of(answered)
    assert found == [line for line in wanted if line in found]
    assert [line for line in wanted if ":serving:" in line] == [line for line in found if ":serving:" in line]
    bounds, labels = forms_of(recorded), labels_of(recorded)
    for metric, form in forms_of(answered).items():
        assert form == bounds[metric], metric
    for metric, names in labels_of(answered).items():
        assert names == labels[metric], metric


def types_of(page: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("# TYPE ")]


def forms_of(page: str) -> dict[str, list[str]]:
    """The bounds of each histogram on a page, those of one cell."""
    found: dict[str, list[str]] = {}
    for metric, bound in re.findall(r'^(\S+)_bucket\{.*le="([^"]*)"\} \d+$', page, re.MULTILINE):
        bounds = found.setdefault(metric, [])
        if bounds[-1:] != ["+Inf"]:
            bounds.append(bound)
    return found


def labels_of(page: str) -> dict[str, list[str]]:
    """The names of the labels of each sample on a page."""
    samples = re.findall(r"^(:\S+?)\{(.*)\} [0-9.e+-]+$", page, re.MULTILINE)
    return {name: re.findall(r'(\w+)="', labels) for name, labels in samples}


@pytest.mark.parametrize("golden", TRANSPORTS[:1], indirect=True)
@pytest.mark.parametrize("case", read_cases("rest"))
def test_rest(golden: Golden, case: dict[str, Any]) -> None:
    request, expected = case["request"], case["expect"]
    sent = None if request["body"] is None else request["body"].encode("latin-1")
    connection = http.client.HTTPConnection("127.0.0.1", golden.server.rest_port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(request["method"], request["path"], sent, request["headers"])
        answer = connection.getresponse()
        body = answer.read().decode("latin-1")
    finally:
        connection.close()

    assert answer.status == expected["status"], body
    if case.get("unstable"):
        return
    assert answer.getheader("content-type") == expected["content_type"]
    if case["name"] == "metrics":
        check_metrics(expected["body"], body)
        return
    recorded = golden.recorded(expected["body"])
    if answer.status == 200 and expected["content_type"] == "application/json":
        assert same_value(json.loads(recorded), json.loads(body)), f"recorded {recorded}\nanswered {body}"
    else:
        assert without_function_numbers(body) == without_function_numbers(recorded)


@pytest.mark.parametrize("case", read_cases("grpc"))
def test_grpc(golden: Golden, case: dict[str, Any]) -> None:
    method, expected = case["request"]["method"], case["expect"]
    request_type, response_type = MESSAGES.get(method.rpartition("/")[2], MESSAGES["Predict"])
    call = golden.server.channel.unary_unary(
        f"/tensorflow.serving.{method}",
        request_serializer=request_type.SerializeToString,
        response_deserializer=response_type.FromString,
    )
    request = text_format.Parse(case["request"]["text"], request_type())

    answer = call.future(request, timeout=TIMEOUT_SECONDS)
    code, details = answer.code(), answer.details() or ""

    assert code.name == expected["code"], details
    if case.get("unstable"):
        return
    if code is not grpc.StatusCode.OK:
        recorded = golden.recorded(expected["details"])
        assert without_function_numbers(details) == without_function_numbers(recorded)
        return
    response = answer.result()
    if isinstance(response, model_management_pb2.ReloadConfigResponse):
        response.ClearField("metric")
    recorded_response = text_format.Parse(golden.recorded(expected["response"]), response_type())
    assert text_format.MessageToString(response) == text_format.MessageToString(recorded_response)
