"""Requests answered from their bytes: the same answers, errors and counts as from messages."""

from __future__ import annotations

import gc
import time
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorflow_serving.apis import predict_pb2

from app.admission import Admission
from app.errors import Code, ServingError
from app.lifecycle.states import State
from app.options import Options
from app.rpc.method import Call, Method
from app.rpc.methods import method_table
from app.telemetry.instruments import Distribution
from app.telemetry.serving_metrics import ServingMetrics
from tests.engine.conftest import load
from tests.rpc.conftest import Served, refuse
from tests.support.copies import both, pipe

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def predict_method(served: Served, metrics: ServingMetrics | None = None, **options: Any) -> Method:
    return method_table(served.manager, served.board, Options(**options), refuse, metrics)[PREDICT]


def request(values: list[float], name: str = "half_plus_two", **spec: Any) -> Any:
    made = predict_pb2.PredictRequest()
    made.model_spec.name = name
    if "version" in spec:
        made.model_spec.version.value = spec["version"]
    made.model_spec.signature_name = spec.get("signature", "")
    tensor = made.inputs[spec.get("alias", "x")]
    tensor.dtype = spec.get("dtype", 1)
    tensor.tensor_shape.dim.add(size=len(values))
    tensor.tensor_content = np.array(values, np.float32 if tensor.dtype == 1 else np.float64).tobytes()
    made.output_filter.extend(spec.get("outputs", ()))
    return made


def from_bytes(method: Method, made: Any, call: Call | None = None) -> bytes | None:
    """The answer of the shortcut, which has seen such requests before."""
    assert method.shortcut is not None
    message = made.SerializeToString()
    if method.shortcut.serve(message, call or Call()) is None:
        for _ in range(2):
            method.shortcut.learn(message, made)
    return method.shortcut.serve(message, call or Call())


@pytest.mark.parametrize("options", [{}, {"enable_serialization_as_tensor_content": True}])
@pytest.mark.parametrize("spec", [{}, {"version": 123}, {"signature": "serving_default"}, {"outputs": ["y"]}])
def test_answers_are_the_same(served: Served, spec: dict[str, Any], options: dict[str, Any]) -> None:
    method = predict_method(served, **options)
    for values in ([1.0, 2.0, 5.0], [3.0, -1.0, 0.5]):
        made = request(values, **spec)
        answer = from_bytes(method, made)
        assert answer is not None
        assert predict_pb2.PredictResponse.FromString(answer) == method.handle(made, Call())


@pytest.mark.parametrize(
    "spec",
    [
        {"alias": "z"},
        {"dtype": 2},
        {"outputs": ["none"]},
        {"outputs": ["y", "y"]},
        {"signature": "nope"},
        {"name": "multi"},
    ],
)
def test_what_is_refused_is_left_to_the_long_way(served: Served, spec: dict[str, Any]) -> None:
    method = predict_method(served)
    made = request([1.0], **spec)
    assert from_bytes(method, made) is None
    with pytest.raises(ServingError):
        method.answer(made.SerializeToString(), Call())


@pytest.mark.parametrize("spec", [{}, {"dtype": 2}])
def test_a_request_counts_once_for_the_rate_whichever_way_it_goes(
    served: Served, spec: dict[str, Any]
) -> None:
    metrics = ServingMetrics.make()
    options = Options(max_requests_per_second_per_model=4)
    admission = Admission(options, metrics.ferry.refused, lambda: ["half_plus_two"], lambda: 0.0)
    method = method_table(served.manager, served.board, options, refuse, metrics, admission=admission)[
        PREDICT
    ]
    made = request([1.0], **spec)
    message = made.SerializeToString()
    assert method.shortcut is not None
    for _ in range(2):
        method.shortcut.learn(message, made)
    codes = []
    for _ in range(5):
        try:
            method.answer(message, Call())
            codes.append(Code.OK)
        except ServingError as error:
            codes.append(error.code)
    assert codes == [Code.INVALID_ARGUMENT if spec else Code.OK] * 4 + [Code.RESOURCE_EXHAUSTED]


@pytest.mark.parametrize("version", [None, 99])
def test_a_model_that_is_not_there(served: Served, version: int | None) -> None:
    metrics = ServingMetrics.make()
    method = predict_method(served, metrics)
    made = request([1.0], **({"name": "nope"} if version is None else {"version": version}))
    assert method.shortcut is not None
    for _ in range(2):
        method.shortcut.learn(made.SerializeToString(), made)
    with pytest.raises(ServingError) as raised:
        method.answer(made.SerializeToString(), Call())
    assert raised.value.code is Code.NOT_FOUND
    assert metrics.request_count.cells() == [((made.model_spec.name, "NOT_FOUND"), 1)]


def test_a_deadline_that_has_passed(served: Served) -> None:
    method = predict_method(served)
    assert from_bytes(method, request([1.0])) is not None
    assert from_bytes(method, request([2.0]), Call(time.monotonic() + 60)) is not None
    with pytest.raises(ServingError) as raised:
        from_bytes(method, request([3.0]), Call(time.monotonic()))
    assert raised.value.code is Code.DEADLINE_EXCEEDED


def test_requests_are_counted_as_ever(served: Served) -> None:
    metrics = ServingMetrics.make()
    method = predict_method(served, metrics)
    for _ in range(5):  # the first two go the long way
        method.answer(request([1.0]).SerializeToString(), Call())
    name = "half_plus_two"
    assert metrics.request_count.cells() == [((name, "OK"), 5)]
    for histogram, labels in (
        (metrics.request_micros, (name, "Predict", "GRPC")),
        (metrics.runtime_micros, (name, "Predict", "TF1")),
    ):
        ((found, distribution),) = histogram.cells()
        assert found == labels
        assert isinstance(distribution, Distribution)
        assert sum(distribution.counts) == 5
    assert [labels[-1] for labels, _ in metrics.ferry.stages.cells()] == ["decode", "run", "encode"]


def only_available(served: Served, model: str, number: int) -> bool:
    states = served.board.versions(model)
    return [status.version for status in states if status.state is State.AVAILABLE] == [number]


def test_a_version_that_is_gone_is_neither_used_nor_kept(served: Served) -> None:
    method = predict_method(served)
    made = request([4.0], name="swapped")
    path = served.manager._table.models["half_plus_two"][123].path
    answers = []
    for number in (1, 2):
        served.manager.set_aspired("swapped", {number: path})
        assert served.board.wait(partial(only_available, served, "swapped", number), time.monotonic() + 60)
        answer = from_bytes(method, made)
        assert answer is not None
        answers.append(predict_pb2.PredictResponse.FromString(answer).model_spec.version.value)
        if number == 1:
            handle = served.manager.acquire("swapped")
            first = weakref.ref(handle.servable)
            handle.release()
            del handle
    assert answers == [1, 2]
    gc.collect()
    assert first() is None
    served.manager.set_aspired("swapped", {})


@pytest.mark.parametrize("name", ["a", "ab", "abc", "abcd"])  # numbers stand wherever the bytes before end
def test_numbers_are_copied_once_from_the_message_to_the_batch(half_plus_two: Path, name: str) -> None:
    with pipe(load(half_plus_two / "1"), name, rows=100) as way:
        method = method_table(way.manager, way.board, Options(), refuse)[PREDICT]
        assert method.shortcut is not None
        made = [request([float(first + row) for row in range(100)], name) for first in (0, 1000)]
        messages = [each.SerializeToString() for each in made]
        for _ in range(2):
            method.shortcut.learn(messages[0], made[0])
        answers = both(lambda message: method.shortcut.serve(message, Call()), *messages)
        assert [
            predict_pb2.PredictResponse.FromString(answer).outputs["y"].float_val[1] for answer in answers
        ] == [2.5, 502.5]
        way.check([np.frombuffer(message, np.uint8) for message in messages])


def test_content_of_a_message_that_was_parsed_is_copied_once_to_the_batch(half_plus_two: Path) -> None:
    with pipe(load(half_plus_two / "1"), "m", rows=100) as way:
        method = method_table(way.manager, way.board, Options(), refuse)[PREDICT]
        made = [request([float(first + row) for row in range(100)], "m") for first in (0, 1000)]
        answers = both(lambda each: method.handle(each, Call()), *made)
        assert [answer.outputs["y"].float_val[1] for answer in answers] == [2.5, 502.5]
        way.check()
        # Protobuf hands a field out as one bytes object; what runs is a view of it.
        assert all(isinstance(root(value), bytes) for value, *_ in way.outer.came)


def root(value: Any) -> Any:
    """What owns the memory of an array."""
    while isinstance(value, np.ndarray) and value.base is not None:
        value = value.base
    return value
