from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from app.api.predict import find_signature, predict
from app.config.batching import BatchingParameters
from app.engine.batching.model import BatchedModel
from app.engine.batching.scheduler import Scheduler
from app.engine.dtypes import Array
from app.engine.model import Model
from app.errors import ServingError, invalid_argument
from app.telemetry.metrics import Registry
from app.telemetry.serving_metrics import BatchingMetrics

X: dict[str, Array] = {"x": np.array([1, 2], np.float32)}
A: Array = np.array([[1, 2]], np.float32)
B: Array = np.array([5], np.int64)
FEED_A, FEED_B, FEED_X = "serving_default_a:0", "serving_default_b:0", "serving_default_x:0"


def lists(outputs: Mapping[str, Array]) -> dict[str, Any]:
    return {alias: value.tolist() for alias, value in outputs.items()}


def failure(call: Callable[[], object]) -> str:
    with pytest.raises(ServingError) as raised:
        call()
    return str(raised.value)


@pytest.mark.parametrize("name", ["", "serving_default", "classify", "regress", "other"])
def test_every_signature_can_be_called_and_the_default_needs_no_name(half: Model, name: str) -> None:
    assert lists(predict(half, name, X)) == {"y": [2.5, 3.0]}


def test_find_signature(half: Model) -> None:
    assert find_signature(half, "") is half.signatures["serving_default"]
    assert find_signature(half, "other") is half.signatures["other"]
    assert find_signature(half, "nope") is None


def test_a_signature_that_is_not_there(half: Model) -> None:
    message = 'FAILED_PRECONDITION: Serving signature key "nope" not found.'
    assert failure(lambda: predict(half, "nope", {})) == message


@pytest.mark.parametrize("name", ["", "classify", "regress"])
def test_method_names_that_pass_the_check(half: Model, name: str) -> None:
    assert lists(predict(half, name, X, check_method_name=True)) == {"y": [2.5, 3.0]}


def test_a_method_name_that_does_not_comes_before_the_inputs(half: Model) -> None:
    assert failure(lambda: predict(half, "other", {}, check_method_name=True)) == (
        "INTERNAL: Expected prediction signature method_name to be one of {tensorflow/serving/predict, "
        "tensorflow/serving/classify, tensorflow/serving/regress}. Was: tensorflow/serving/other"
    )


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {},
            "input size does not match signature: 0!=1 len({}) != len({x}). "
            "Sent extra: {}. Missing but required: {x}.",
        ),
        (
            {"z": A, "x": A},
            "input size does not match signature: 2!=1 len({x,z}) != len({x}). "
            "Sent extra: {z}. Missing but required: {}.",
        ),
        (
            {"z": A},
            f"Signature input alias: x(feed name: {FEED_X}) not found in request and no default value "
            "provided. Inputs expected to be in the request {z}, or default input alias set: ",
        ),
    ],
)
def test_inputs_that_do_not_match(half: Model, inputs: dict[str, Array], message: str) -> None:
    assert failure(lambda: predict(half, "", inputs)) == f"INVALID_ARGUMENT: {message}"


def test_a_missing_input_without_defaults(two_inputs: Model) -> None:
    assert failure(lambda: predict(two_inputs, "", {"a": A})) == (
        "INVALID_ARGUMENT: input size does not match signature: 1!=2 len({a}) != len({a,b}). "
        "Sent extra: {}. Missing but required: {b}."
    )


def test_a_default_stands_in_for_a_missing_input(two_inputs: Model) -> None:
    assert lists(predict(two_inputs, "defaulted", {"a": A})) == {"sum": [[11.0, 12.0]], "twice": [20]}
    assert lists(predict(two_inputs, "defaulted", {"a": A, "b": B})) == {"sum": [[6.0, 7.0]], "twice": [10]}


def test_a_default_counts_as_an_input_of_its_rows_when_requests_are_batched(two_inputs: Model) -> None:
    scheduler = Scheduler(1, "test-predict")
    scheduler.start()
    model = BatchedModel(two_inputs, BatchingParameters(), scheduler, BatchingMetrics.make(Registry()))
    assert lists(predict(model, "defaulted", {"a": A})) == {"sum": [[11.0, 12.0]], "twice": [20]}
    message = "INVALID_ARGUMENT: Batching Run() input tensors must have equal 0th-dimension size"
    two_rows = {"a": np.concatenate([A, A])}
    assert lists(predict(two_inputs, "defaulted", two_rows))["twice"] == [20]
    assert failure(lambda: predict(model, "defaulted", two_rows)) == message
    scheduler.stop()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"b": B},
            f"Signature input alias: a(feed name: {FEED_A}) not found in request and no default value "
            "provided. Inputs expected to be in the request {b}, or default input alias set: b",
        ),
        (
            {},
            f"Signature input alias: a(feed name: {FEED_A}) not found in request and no default value "
            "provided. Inputs expected to be in the request {}, or default input alias set: b",
        ),
        (
            {"a": A, "z": B},
            "Inputs contains invalid name. Used request inputs: {a}, request input: {a,z}",
        ),
        (
            {"a": A, "b": B, "z": B},
            "input size does not match signature: 3!=2 len({a,b,z}) != len({a,b}). "
            "Sent extra: {z}. Missing but required: {}.",
        ),
    ],
)
def test_inputs_that_do_not_match_a_signature_with_defaults(
    two_inputs: Model, inputs: dict[str, Array], message: str
) -> None:
    assert failure(lambda: predict(two_inputs, "defaulted", inputs)) == f"INVALID_ARGUMENT: {message}"


def test_the_outputs_asked_for(two_inputs: Model) -> None:
    inputs = {"a": A, "b": B}
    assert set(predict(two_inputs, "", inputs)) == {"sum", "twice"}
    assert lists(predict(two_inputs, "", inputs, ["twice"])) == {"twice": [10]}
    assert lists(predict(two_inputs, "", inputs, ["twice", "sum"])) == {"sum": [[6.0, 7.0]], "twice": [10]}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            ["sum", "q", "sum"],
            "output tensor alias not found in signature: q Outputs expected to be in the set {sum,twice}.",
        ),
        (["sum", "twice", "sum", "q"], "duplicate output tensor alias: sum"),
        ([""], "output tensor alias not found in signature:  Outputs expected to be in the set {sum,twice}."),
    ],
)
def test_outputs_that_there_are_not(two_inputs: Model, wanted: list[str], message: str) -> None:
    found = failure(lambda: predict(two_inputs, "", {"a": A, "b": B}, wanted))
    assert found == f"INVALID_ARGUMENT: {message}"


class Undecodable(Mapping[str, Array]):
    """Inputs that are there, but whose values fail."""

    def __getitem__(self, alias: str) -> Array:
        raise invalid_argument(f"tensor parsing error: {alias}")

    def __iter__(self) -> Iterator[str]:
        return iter(["x"])

    def __len__(self) -> int:
        return 1


def test_inputs_are_decoded_after_the_signature_is_found_and_before_outputs_are_checked(half: Model) -> None:
    assert failure(lambda: predict(half, "nope", Undecodable())).startswith("FAILED_PRECONDITION")
    parsing = "INVALID_ARGUMENT: tensor parsing error: x"
    assert failure(lambda: predict(half, "", Undecodable(), ["q"])) == parsing


def test_types_and_shapes_are_left_to_tensorflow(half: Model) -> None:
    assert lists(predict(half, "", {"x": np.array(1, np.float32)})) == {"y": 2.5}
    assert lists(predict(half, "", {"x": np.zeros((0,), np.float32)})) == {"y": []}
    assert failure(lambda: predict(half, "", {"x": np.array([1], np.int32)})) == (
        "INVALID_ARGUMENT: Expects arg[0] to be float but int32 is provided"
    )


def test_a_run_is_not_begun_after_the_deadline(half: Model) -> None:
    late = "DEADLINE_EXCEEDED: Timed out waiting for notification"
    assert failure(lambda: predict(half, "", X, deadline=time.monotonic())) == late
    assert lists(predict(half, "", X, deadline=time.monotonic() + 60)) == {"y": [2.5, 3.0]}


def test_mistakes_of_the_request_come_before_the_deadline(half: Model) -> None:
    assert failure(lambda: predict(half, "", X, ["q"], deadline=0.0)).startswith("INVALID_ARGUMENT: output")


def test_a_successful_run_is_observed(half: Model) -> None:
    runs: list[tuple[str, int]] = []
    observe = lambda api, micros: runs.append((api, micros))  # noqa: E731
    predict(half, "", X, observe_run=observe)
    assert failure(lambda: predict(half, "", {}, observe_run=observe)).startswith("INVALID_ARGUMENT")
    wrong: dict[str, Array] = {"x": np.array([1], np.int64)}
    assert failure(lambda: predict(half, "", wrong, observe_run=observe)).startswith("INVALID_ARGUMENT")
    assert [api for api, _ in runs] == ["Predict"]
    assert runs[0][1] > 0
