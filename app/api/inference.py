"""Classify, Regress and MultiInference: examples in, classes or values out.

Checks and their order are TensorFlow Serving's. A signature is usable by its form; its method name
counts only when the server was told to check it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

from app.api.examples import example_tensor
from app.api.models import LoadedVersion, ModelSpec
from app.api.predict import check_deadline
from app.engine.dtypes import Array, of_array
from app.engine.model import Model, sorted_feeds
from app.engine.signature import DEFAULT_SIGNATURE, Signature
from app.errors import Code, ServingError, invalid_argument
from app.telemetry.serving_metrics import ObserveRun, micros

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
_INPUT = "inputs"


@dataclass(frozen=True)
class _Task:
    """One evaluation of a signature: which aliases of its outputs are wanted, and for what."""

    signature: Signature
    method: str
    outputs: tuple[str, ...]

    @property
    def tensors(self) -> list[str]:
        return [self.signature.outputs[alias].tensor for alias in self.outputs]

    def pick(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        return {alias: tensors[self.signature.outputs[alias].tensor] for alias in self.outputs}


def classify(
    handle: LoadedVersion,
    spec: ModelSpec,
    examples: Any,
    *,
    check_method_name: bool = False,
    deadline: float | None = None,
    observe_run: ObserveRun | None = None,
) -> Any:
    """Answer a Classify request.

    Args:
        handle: the version to run, pinned unless nobody else has it yet.
        spec: the model spec of the request.
        examples: an `Input`.
        check_method_name: refuse signatures that were not exported for this.
        deadline: on `time.monotonic`; a run is not begun after it.
        observe_run: told of a successful run, `Classify` or `Regress` and its microseconds.

    Returns:
        A ClassificationResponse: for every example all classes, in the tensors' order.

    Raises:
        ServingError: INVALID_ARGUMENT with TensorFlow Serving's text, or the model's own error.
    """
    signature = _signature(handle.servable, spec.signature_name)
    task = _classification_task(handle.servable, signature, check_method_name)
    observe = None if observe_run is None else partial(observe_run, "Classify")
    count, tensors = _run(handle.servable, [task], examples, deadline, observe)
    response = classification_pb2.ClassificationResponse()
    _echo_spec(response.model_spec, handle, spec)
    _fill_classifications(response.result, task.pick(tensors), count)
    return response


def regress(
    handle: LoadedVersion,
    spec: ModelSpec,
    examples: Any,
    *,
    check_method_name: bool = False,
    deadline: float | None = None,
    observe_run: ObserveRun | None = None,
) -> Any:
    """Answer a Regress request with a RegressionResponse: a value for every example.

    Arguments and errors are those of `classify`.
    """
    signature = _signature(handle.servable, spec.signature_name)
    task = _regression_task(handle.servable, signature, check_method_name)
    observe = None if observe_run is None else partial(observe_run, "Regress")
    count, tensors = _run(handle.servable, [task], examples, deadline, observe)
    response = regression_pb2.RegressionResponse()
    _echo_spec(response.model_spec, handle, spec)
    _fill_regressions(response.result, task.pick(tensors)["outputs"], count)
    return response


def multi_inference(
    handle: LoadedVersion,
    tasks: Sequence[Any],
    examples: Any,
    *,
    check_method_name: bool = False,
    deadline: float | None = None,
    observe_run: ObserveRun | None = None,
    observe_examples: Callable[[int], None] | None = None,
) -> Any:
    """Answer a MultiInference request: several signatures of one model in one run.

    Args:
        handle: as for `classify`; of the model that the first task names.
        tasks: the request's InferenceTasks, at least one.
        examples: an `Input`; it feeds every task.
        check_method_name: refuse signatures that were not exported for their task's method.
        deadline: on `time.monotonic`; a run is not begun after it.
        observe_run: told of a successful run, `MultiInference` and its microseconds.
        observe_examples: told the number of examples after a successful run.

    Returns:
        A MultiInferenceResponse with the results in the order of the tasks.

    Raises:
        ServingError: INVALID_ARGUMENT or UNIMPLEMENTED with TensorFlow Serving's text, or the model's
            own error.
    """
    planned = _plan(handle.servable, tasks, check_method_name)
    observe = None if observe_run is None else partial(observe_run, "MultiInference")
    count, tensors = _run(handle.servable, planned, examples, deadline, observe)
    if observe_examples is not None:
        observe_examples(count)
    response = inference_pb2.MultiInferenceResponse()
    for task, plan in zip(tasks, planned, strict=True):
        result = response.results.add()
        spec = ModelSpec(task.model_spec.name, signature_name=task.model_spec.signature_name)
        _echo_spec(result.model_spec, handle, spec)
        if plan.method == CLASSIFY:
            _fill_classifications(result.classification_result, plan.pick(tensors), count)
        else:
            _fill_regressions(result.regression_result, plan.pick(tensors)["outputs"], count)
    return response


def _plan(model: Model, tasks: Sequence[Any], check_method_name: bool) -> list[_Task]:
    planned: list[_Task] = []
    for task in tasks:
        if not task.model_spec.name:
            raise invalid_argument("Found ModelSpec with an empty model name.")
        if task.model_spec.name != tasks[0].model_spec.name:
            raise invalid_argument(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if any(plan.signature.name == name for plan in planned):
            raise invalid_argument(f"Duplicate evaluation of signature: {name}")
        signature = model.signatures.get(name)
        if signature is None:
            raise invalid_argument(f"Requested signature not found in model graph: {name}")
        if task.method_name == CLASSIFY:
            planned.append(_classification_task(model, signature, check_method_name))
        elif task.method_name == REGRESS:
            planned.append(_regression_task(model, signature, check_method_name))
        else:
            raise ServingError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
    return planned


def _signature(model: Model, name: str) -> Signature:
    name = name or DEFAULT_SIGNATURE
    signature = model.signatures.get(name)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {name}")
    return signature


def _classification_task(model: Model, signature: Signature, check_method_name: bool) -> _Task:
    if check_method_name and signature.method_name != CLASSIFY:
        raise invalid_argument(
            f"Expected classification signature method_name to be {CLASSIFY}. Was: {signature.method_name}"
        )
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if _INPUT not in signature.inputs:
        raise invalid_argument(f"No classification inputs found in SignatureDef: {_dump(model, signature)}")
    outputs = tuple(alias for alias in ("classes", "scores") if alias in signature.outputs)
    if not outputs:
        raise invalid_argument(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {_dump(model, signature)}"
        )
    return _Task(signature, CLASSIFY, outputs)


def _regression_task(model: Model, signature: Signature, check_method_name: bool) -> _Task:
    if check_method_name and signature.method_name != REGRESS:
        raise invalid_argument(
            f"Expected regression signature method_name to be {REGRESS}. Was: {signature.method_name}"
        )
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    if _INPUT not in signature.inputs:
        raise invalid_argument(f"No regression inputs found in SignatureDef: {_dump(model, signature)}")
    if "outputs" not in signature.outputs:
        raise invalid_argument(f"No regression outputs found in SignatureDef: {_dump(model, signature)}")
    return _Task(signature, REGRESS, ("outputs",))


def _dump(model: Model, signature: Signature) -> str:
    return str(model.signature_defs[signature.name])


def _run(
    model: Model,
    tasks: Sequence[_Task],
    examples: Any,
    deadline: float | None,
    observe: Callable[[int], None] | None = None,
) -> tuple[int, dict[str, Array]]:
    """Run all tasks at once; the number of examples, and the fetched tensors by name."""
    tensor = example_tensor(examples)
    check_deadline(deadline)
    feeds = sorted_feeds(task.signature.inputs[_INPUT] for task in tasks)
    fetches = tuple(dict.fromkeys(name for task in tasks for name in task.tensors))
    start = time.perf_counter_ns()
    values = {spec.tensor: tensor for spec in feeds}
    outputs = model.run_tensors(feeds, values, fetches, deadline=deadline)
    if observe is not None:
        observe(micros(start, time.perf_counter_ns()))
    return len(tensor), outputs


def _echo_spec(proto: Any, handle: LoadedVersion, spec: ModelSpec) -> None:
    proto.name = spec.name
    proto.version.value = handle.version
    proto.signature_name = spec.signature_name or DEFAULT_SIGNATURE


def _fill_classifications(result: Any, outputs: Mapping[str, Array], count: int) -> None:
    classes, scores = outputs.get("classes"), outputs.get("scores")
    if classes is not None:
        _check_class_tensor("classes", classes, "string", count)
    if scores is not None:
        _check_class_tensor("scores", scores, "float", count)
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise invalid_argument(
            "Tensors class and score should match in dim_size(1). "
            f"Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    for row in range(count):
        labels = repeat(b"") if classes is None else classes[row].tolist()
        values = repeat(0.0) if scores is None else scores[row].tolist()
        add = result.classifications.add().classes.add
        # One of the two is finite, and both are equally long if both are: zip ends with it.
        for label, score in zip(labels, values, strict=False):
            add(label=label, score=score)


def _check_class_tensor(alias: str, tensor: Array, type_name: str, count: int) -> None:
    if tensor.ndim != 2:
        raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(tensor)}")
    if of_array(tensor).name != type_name:
        raise invalid_argument(
            f"Expected {alias} Tensor of DT_{type_name.upper()}. Got: {of_array(tensor).enum_name}"
        )
    if len(tensor) != count:
        raise invalid_argument(f"Expected {alias} output batch size of {count}. Got: {len(tensor)}")


def _fill_regressions(result: Any, values: Array, count: int) -> None:
    if values.ndim != 1 and not (values.ndim == 2 and values.shape[1] == 1):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] "
            f"but got {_shape(values)}"
        )
    if len(values) != count:
        raise invalid_argument(f"Input batch size did not match output batch size: {count} vs. {len(values)}")
    if of_array(values).name != "float":
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {of_array(values).enum_name}")
    for value in values.ravel().tolist():
        result.regressions.add(value=value)


def _shape(tensor: Array) -> str:
    return f"[{','.join(map(str, tensor.shape))}]"
