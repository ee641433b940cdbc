from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tensorflow_serving.apis import inference_pb2, input_pb2

from app.api.inference import classify, multi_inference, regress
from app.api.models import ModelSpec
from app.config.batching import BatchingParameters
from app.engine import savedmodel
from app.engine.batching.model import BatchedModel
from app.engine.batching.scheduler import Scheduler
from app.engine.model import Model
from app.engine.session_config import session_config
from app.errors import Code, ServingError
from app.lifecycle.manager import Manager
from app.lifecycle.states import StateBoard
from app.lifecycle.version import Handle
from app.options import Options
from app.telemetry.instruments import Distribution
from app.telemetry.metrics import Registry
from app.telemetry.serving_metrics import BatchingMetrics
from tests.support.models import tensorflow

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"


@pytest.fixture(scope="module")
def handle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle[Model]]:
    """Version 1 of `m`: x (float, one value) of every example gives classes, scores and values."""
    tf = tensorflow()
    tf1 = tf.compat.v1
    path = str(tmp_path_factory.mktemp("m") / "1")
    with warnings.catch_warnings(), tf.Graph().as_default(), tf1.Session() as session:
        warnings.simplefilter("ignore")
        examples = tf1.placeholder(tf.string, [None], name="examples")
        x = tf1.parse_example(examples, {"x": tf1.FixedLenFeature([1], tf.float32)})["x"]
        other = tf1.placeholder(tf.string, [None], name="other")
        scores = tf.concat([x, x * 2.0], axis=1)
        classes = tf.strings.as_string(scores, precision=1)
        value = x[:, 0] + 1.0

        def signature(inputs: dict[str, Any], outputs: dict[str, Any], method: str = "") -> Any:
            info = tf1.saved_model.build_tensor_info
            return tf1.saved_model.build_signature_def(
                {name: info(tensor) for name, tensor in inputs.items()},
                {name: info(tensor) for name, tensor in outputs.items()},
                method,
            )

        def classifies(**outputs: Any) -> Any:
            return signature({"inputs": examples}, outputs, CLASSIFY)

        def regresses(outputs: Any) -> Any:
            return signature({"inputs": examples}, {"outputs": outputs}, REGRESS)

        builder = tf1.saved_model.Builder(path)
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                "serving_default": classifies(classes=classes, scores=scores),
                "classes": classifies(classes=classes),
                "scores": classifies(scores=scores, ignored=value),
                "flat": classifies(scores=value),
                "numbers": classifies(classes=scores),
                "doubles": classifies(scores=tf.cast(scores, tf.float64)),
                "short": classifies(scores=scores[:1]),
                "uneven": classifies(classes=classes, scores=x),
                "neither": classifies(value=value),
                "many": classifies(classes=classes, scores=scores, value=value),
                "value": regresses(value),
                "column": regresses(x),
                "wide": regresses(scores),
                "cut": regresses(value[:1]),
                "text": regresses(tf.strings.as_string(value)),
                "two_inputs": signature({"inputs": examples, "more": other}, {"outputs": value}),
                "renamed_input": signature({"x": examples}, {"outputs": value}),
                "renamed_class_input": signature({"x": examples}, {"classes": classes}),
                "renamed_output": signature({"inputs": examples}, {"y": value}),
            },
        )
        builder.save()
    manager: Manager[Model] = Manager(
        lambda _model, _version, path: savedmodel.load(path, ["serve"], session_config(Options())),
        board := StateBoard(),
    )
    manager.start()
    manager.set_aspired("m", {1: path})
    assert board.wait(
        lambda: any(s.state.name == "AVAILABLE" for s in board.versions("m")), time.monotonic() + 60
    )
    with manager.acquire("m") as pinned:
        yield pinned
    manager.stop()


def examples(*values: float) -> Any:
    message = input_pb2.Input()
    for value in values:
        message.example_list.examples.add().features.feature["x"].float_list.value.append(value)
    return message


def spec(signature: str) -> ModelSpec:
    return ModelSpec("m", signature_name=signature)


def pairs(result: Any) -> list[list[tuple[str, float]]]:
    return [[(entry.label, entry.score) for entry in row.classes] for row in result.classifications]


def test_classify_pairs_classes_and_scores(handle: Handle[Model]) -> None:
    response = classify(handle, spec(""), examples(1.0, 2.0))
    assert pairs(response.result) == [[("1.0", 1.0), ("2.0", 2.0)], [("2.0", 2.0), ("4.0", 4.0)]]
    assert (response.model_spec.name, response.model_spec.version.value) == ("m", 1)
    assert response.model_spec.signature_name == "serving_default"


def test_classify_leaves_what_is_missing_at_its_default(handle: Handle[Model]) -> None:
    assert pairs(classify(handle, spec("classes"), examples(1.0)).result) == [[("1.0", 0.0), ("2.0", 0.0)]]
    assert pairs(classify(handle, spec("scores"), examples(1.0)).result) == [[("", 1.0), ("", 2.0)]]


@pytest.mark.parametrize("signature", ["value", "column"])
def test_regress_takes_vectors_and_columns(handle: Handle[Model], signature: str) -> None:
    response = regress(handle, spec(signature), examples(1.0, 2.0))
    expected = [2.0, 3.0] if signature == "value" else [1.0, 2.0]
    assert [entry.value for entry in response.result.regressions] == expected
    assert response.model_spec.signature_name == signature


@pytest.mark.parametrize(
    ("method", "signature", "message"),
    [
        (classify, "nope", "No signature was found with the name: nope"),
        (regress, "nope", "No signature was found with the name: nope"),
        (classify, "two_inputs", "Expected one input Tensor."),
        (regress, "two_inputs", "Expected one input Tensor."),
        (classify, "many", "Expected one or two output Tensors, found 3"),
        (regress, "", "Expected one output Tensor."),
        (classify, "renamed_class_input", "No classification inputs found in SignatureDef: inputs {"),
        (regress, "renamed_input", "No regression inputs found in SignatureDef: inputs {"),
        (regress, "renamed_output", "No regression outputs found in SignatureDef: inputs {"),
        (
            classify,
            "neither",
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            "Signature was: inputs {",
        ),
        (classify, "flat", "Expected Tensor shape: [batch_size num_classes] but got [2]"),
        (classify, "numbers", "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
        (classify, "doubles", "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
        (classify, "short", "Expected scores output batch size of 2. Got: 1"),
        (classify, "uneven", "Tensors class and score should match in dim_size(1). Got 2 vs. 1"),
        (
            regress,
            "wide",
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,2]",
        ),
        (regress, "cut", "Input batch size did not match output batch size: 2 vs. 1"),
        (regress, "text", "Expected output Tensor of DT_FLOAT.  Got: DT_STRING"),
    ],
)
def test_checks_of_the_signature_and_its_outputs(
    handle: Handle[Model], method: Callable[..., Any], signature: str, message: str
) -> None:
    with pytest.raises(ServingError) as raised:
        method(handle, spec(signature), examples(1.0, 2.0))
    assert raised.value.code is Code.INVALID_ARGUMENT
    assert raised.value.message.startswith(message)


def test_the_method_name_is_checked_on_request_only(handle: Handle[Model]) -> None:
    classify(handle, spec("classes"), examples(1.0), check_method_name=True)
    with pytest.raises(ServingError, match=f"method_name to be {CLASSIFY}. Was: {REGRESS}"):
        classify(handle, spec("value"), examples(1.0), check_method_name=True)
    with pytest.raises(ServingError, match=f"method_name to be {REGRESS}. Was: {CLASSIFY}"):
        regress(handle, spec("classes"), examples(1.0), check_method_name=True)


def test_signature_errors_come_before_an_empty_input(handle: Handle[Model]) -> None:
    with pytest.raises(ServingError, match="No signature"):
        classify(handle, spec("nope"), examples())
    with pytest.raises(ServingError, match="Input is empty"):
        classify(handle, spec(""), examples())


def test_a_passed_deadline_ends_it_before_the_run(handle: Handle[Model]) -> None:
    with pytest.raises(ServingError) as raised:
        classify(handle, spec(""), examples(1.0), deadline=time.monotonic())
    assert raised.value.code is Code.DEADLINE_EXCEEDED


def test_the_model_s_own_error_comes_through(handle: Handle[Model]) -> None:
    message = input_pb2.Input()
    message.example_list.examples.add()
    with pytest.raises(ServingError, match=r"Feature: x .* is required but could not be found\."):
        regress(handle, spec("value"), message)


def task(signature: str, method: str, model: str = "m") -> Any:
    message = inference_pb2.InferenceTask(method_name=method)
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    return message


def test_multi_inference_answers_in_the_order_of_its_tasks(handle: Handle[Model]) -> None:
    tasks = [task("value", REGRESS), task("", CLASSIFY)]
    first, second = multi_inference(handle, tasks, examples(1.0)).results
    assert [entry.value for entry in first.regression_result.regressions] == [2.0]
    assert pairs(second.classification_result) == [[("1.0", 1.0), ("2.0", 2.0)]]
    assert [result.model_spec.signature_name for result in (first, second)] == ["value", "serving_default"]
    assert first.model_spec.version.value == 1


@pytest.mark.parametrize(
    ("tasks", "code", "message"),
    [
        (
            [task("value", REGRESS), task("", CLASSIFY, model="")],
            Code.INVALID_ARGUMENT,
            "Found ModelSpec with an empty model name.",
        ),
        (
            [task("value", REGRESS), task("", CLASSIFY, model="other")],
            Code.INVALID_ARGUMENT,
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            [task("serving_default", CLASSIFY), task("", CLASSIFY)],
            Code.INVALID_ARGUMENT,
            "Duplicate evaluation of signature: serving_default",
        ),
        (
            [task("nope", CLASSIFY)],
            Code.INVALID_ARGUMENT,
            "Requested signature not found in model graph: nope",
        ),
        ([task("value", "m")], Code.UNIMPLEMENTED, "Unsupported signature method_name: m"),
        ([task("", REGRESS)], Code.INVALID_ARGUMENT, "Expected one output Tensor."),
    ],
)
def test_multi_inference_checks(handle: Handle[Model], tasks: list[Any], code: Code, message: str) -> None:
    with pytest.raises(ServingError) as raised:
        multi_inference(handle, tasks, examples(1.0))
    assert (raised.value.code, raised.value.message) == (code, message)


def test_successful_runs_are_observed(handle: Handle[Model]) -> None:
    runs: list[str] = []
    observe = lambda api, _micros: runs.append(api)  # noqa: E731
    classify(handle, spec("scores"), examples(1.0), observe_run=observe)
    regress(handle, spec("value"), examples(1.0), observe_run=observe)
    with pytest.raises(ServingError):
        regress(handle, spec("value"), examples(), observe_run=observe)
    assert runs == ["Classify", "Regress"]


def test_the_examples_of_a_multi_inference_are_observed(handle: Handle[Model]) -> None:
    counts: list[int] = []
    request = inference_pb2.MultiInferenceRequest()
    request.tasks.add(method_name=REGRESS).model_spec.name = "m"
    request.tasks[0].model_spec.signature_name = "value"
    multi_inference(handle, request.tasks, examples(1.0, 2.0, 3.0), observe_examples=counts.append)
    with pytest.raises(ServingError):
        multi_inference(handle, request.tasks, examples(), observe_examples=counts.append)
    assert counts == [3]


@dataclass(frozen=True)
class Pinned:
    """A version that nobody else has."""

    servable: Model
    name: str = "m"
    version: int = 1

    def release(self) -> None:
        pass


def test_every_method_is_batched_with_an_example_for_a_row(handle: Handle[Model]) -> None:
    scheduler = Scheduler(1, "test-inference")
    scheduler.start()
    metrics = BatchingMetrics.make(Registry())
    pinned = Pinned(BatchedModel(handle.servable, BatchingParameters(), scheduler, metrics))
    assert pairs(classify(pinned, spec("scores"), examples(1.0, 2.0)).result)[1] == [("", 2.0), ("", 4.0)]
    assert len(regress(pinned, spec("value"), examples(1.0)).result.regressions) == 1
    request = inference_pb2.MultiInferenceRequest()
    for signature, method in (("serving_default", CLASSIFY), ("value", REGRESS)):
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = "m", signature
    assert len(multi_inference(pinned, request.tasks, examples(1.0, 2.0, 3.0)).results) == 2
    assert metrics.wrapped_runs.cells() == [((), 3)]
    ((_, rows),) = metrics.processed_batch_size.cells()
    assert isinstance(rows, Distribution)
    assert rows.sum == 2 + 1 + 3
    scheduler.stop()
