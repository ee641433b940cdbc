"""Predict: named tensors in, named tensors out. Order and text of checks are TensorFlow Serving's."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from app.engine.dtypes import Array
from app.engine.model import Model
from app.engine.signature import DEFAULT_SIGNATURE, Signature
from app.errors import Code, ServingError, invalid_argument
from app.telemetry.serving_metrics import ObserveRun, micros

PREDICT_METHODS = (
    "tensorflow/serving/predict",
    "tensorflow/serving/classify",
    "tensorflow/serving/regress",
)


def find_signature(model: Model, name: str) -> Signature | None:
    """The signature called `name`, or the default one if `name` is empty."""
    return model.signatures.get(name or DEFAULT_SIGNATURE)


def predict(
    model: Model,
    signature_name: str,
    inputs: Mapping[str, Array],
    output_filter: Sequence[str] = (),
    *,
    check_method_name: bool = False,
    deadline: float | None = None,
    observe_run: ObserveRun | None = None,
) -> dict[str, Array]:
    """Check the inputs against the signature and run it.

    Args:
        model: a pinned model.
        signature_name: empty for `serving_default`.
        inputs: values by alias; may decode lazily and raise ServingError on access.
        output_filter: the aliases wanted; all when empty.
        check_method_name: refuse signatures whose method name is not one of predict's.
        deadline: on `time.monotonic`; a run is not begun after it, nor a wait for a batch.
        observe_run: told of a successful run, `Predict` and its microseconds.

    Returns:
        The outputs by alias.

    Raises:
        ServingError: with the code and text of TensorFlow Serving for each failing check.
    """
    signature = find_signature(model, signature_name)
    if signature is None:
        raise ServingError(
            Code.FAILED_PRECONDITION,
            f'Serving signature key "{signature_name or DEFAULT_SIGNATURE}" not found.',
        )
    if check_method_name and signature.method_name not in PREDICT_METHODS:
        raise ServingError(
            Code.INTERNAL,
            f"Expected prediction signature method_name to be one of {{{', '.join(PREDICT_METHODS)}}}. "
            f"Was: {signature.method_name}",
        )
    values = _inputs(signature, inputs)
    if output_filter:
        check_filter(signature, output_filter)
    check_deadline(deadline)
    start = time.perf_counter_ns()
    outputs = model.run(signature, values, output_filter, deadline=deadline)
    if observe_run is not None:
        observe_run("Predict", micros(start, time.perf_counter_ns()))
    return outputs


def check_deadline(deadline: float | None) -> None:
    """Refuse to begin a run whose client has given up: DEADLINE_EXCEEDED."""
    if deadline is not None and time.monotonic() >= deadline:
        raise ServingError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")


def _inputs(signature: Signature, inputs: Mapping[str, Array]) -> dict[str, Array]:
    sent, wanted = len(inputs), len(signature.inputs)
    if sent > wanted or (sent < wanted and not signature.defaults):
        raise invalid_argument(
            f"input size does not match signature: {sent}!={wanted} "
            f"len({_set(inputs)}) != len({_set(signature.inputs)}). "
            f"Sent extra: {_set(inputs.keys() - signature.inputs.keys())}. "
            f"Missing but required: {_set(signature.inputs.keys() - inputs.keys())}."
        )
    values, used = {}, 0
    for alias, spec in signature.inputs.items():
        if alias in inputs:
            values[alias] = inputs[alias]
            used += 1
        elif alias in signature.defaults:
            values[alias] = signature.defaults[alias]
        else:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {spec.tensor}) not found in request and no "
                f"default value provided. Inputs expected to be in the request {_set(inputs)}, or "
                f"default input alias set: {','.join(sorted(signature.defaults))}"
            )
    if used != sent:
        raise invalid_argument(
            "Inputs contains invalid name. Used request inputs: "
            f"{_set(inputs.keys() & signature.inputs.keys())}, request input: {_set(inputs)}"
        )
    return values


def check_filter(signature: Signature, output_filter: Sequence[str]) -> None:
    """Refuse aliases that the signature does not have, or that come twice: INVALID_ARGUMENT."""
    seen = set()
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_set(signature.outputs)}."
            )
        if alias in seen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        seen.add(alias)


def _set(names: Iterable[str]) -> str:
    """Names as the error texts print a set: sorted, `{a,b}`."""
    return f"{{{','.join(sorted(names))}}}"
