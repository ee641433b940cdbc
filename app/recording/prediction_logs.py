"""PredictionLogs, as bytes: a request and its answer with what is to be known of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tensorflow_serving.apis import classification_pb2, logging_pb2, predict_pb2, regression_pb2
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from app.api.models import ModelSpec
from app.api.tensor_proto import from_array, varint
from app.engine.dtypes import Array
from app.engine.signature import DEFAULT_SIGNATURE, Signature
from app.telemetry.observation import Messages, Observation, current

_SERVICE = "/tensorflow.serving.PredictionService/"
KINDS = {
    _SERVICE + "Predict": "predict_log",
    _SERVICE + "Classify": "classify_log",
    _SERVICE + "Regress": "regress_log",
    _SERVICE + "MultiInference": "multi_inference_log",
}
"""The field of PredictionLog for each method that is recorded."""

_LENGTH_DELIMITED = 2


def prediction_log(seen: Observation, kind: str, messages: Messages, sampling_rate: float) -> bytes:
    """A serialized PredictionLog.

    The messages go in as the bytes that they are: nothing is decoded for it.

    Args:
        seen: the request.
        kind: one of the values of KINDS.
        messages: request and answer, serialized.
        sampling_rate: by which it was picked.
    """
    metadata = logging_pb2.LogMetadata()
    metadata.model_spec.name = seen.model
    if seen.version is not None:
        metadata.model_spec.version.value = seen.version
    metadata.model_spec.signature_name = seen.signature
    metadata.sampling_config.sampling_rate = sampling_rate
    metadata.timestamp_secs = seen.wall // 1_000_000_000
    request, response = messages
    # Every kind has its request as field 1 and its answer as field 2.
    both = _field(1, request) + _field(2, response)
    fields = PredictionLog.DESCRIPTOR.fields_by_name
    return _field(fields["log_metadata"].number, metadata.SerializeToString()) + _field(
        fields[kind].number, both
    )


def record_predict(
    spec: ModelSpec,
    version: int,
    signature: Signature,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    *,
    size: int,
) -> None:
    """Record the current request, a Predict that came as JSON, if it was picked.

    Args:
        spec: of the request, with the signature's name.
        version: that answered.
        signature: that was run.
        inputs: by alias; nobody changes them any more.
        outputs: likewise.
        size: bytes of the request.
    """
    seen = current.get()
    if seen is not None and seen.recorder is not None:
        size += sum(array.nbytes for array in outputs.values())
        make = partial(_predict_messages, spec, version, signature, dict(inputs), outputs)
        seen.recorder.record(seen, "predict_log", make, size)


def record_inference(spec: ModelSpec, examples: Any, response: Any, *, size: int) -> None:
    """Record the current request, a Classify or Regress that came as JSON, if it was picked.

    Args:
        spec: of the request, with the signature's name.
        examples: the `Input`.
        response: the ClassificationResponse or RegressionResponse.
        size: bytes of the request.
    """
    seen = current.get()
    if seen is not None and seen.recorder is not None:
        classify = isinstance(response, classification_pb2.ClassificationResponse)
        kind = "classify_log" if classify else "regress_log"
        request: Callable[[], Any] = (
            classification_pb2.ClassificationRequest if classify else regression_pb2.RegressionRequest
        )
        make = partial(_inference_messages, request, spec, examples, response)
        seen.recorder.record(seen, kind, make, 2 * size)


def _predict_messages(
    spec: ModelSpec,
    version: int,
    signature: Signature,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
) -> Messages:
    request, response = predict_pb2.PredictRequest(), predict_pb2.PredictResponse()
    _fill_spec(request.model_spec, spec)
    for alias, value in inputs.items():
        from_array(value, signature.inputs[alias].dtype, into=request.inputs[alias])
    response.model_spec.name = spec.name
    response.model_spec.version.value = version
    response.model_spec.signature_name = spec.signature_name or DEFAULT_SIGNATURE
    for alias, value in outputs.items():
        from_array(value, signature.outputs[alias].dtype, into=response.outputs[alias])
    return request.SerializeToString(), response.SerializeToString()


def _inference_messages(
    make_request: Callable[[], Any], spec: ModelSpec, examples: Any, response: Any
) -> Messages:
    request = make_request()
    _fill_spec(request.model_spec, spec)
    request.input.CopyFrom(examples)
    return request.SerializeToString(), response.SerializeToString()


def _fill_spec(proto: Any, spec: ModelSpec) -> None:
    """The model spec as a gRPC client would have written what the path and body of the request say."""
    proto.name = spec.name
    proto.signature_name = spec.signature_name
    if spec.version is not None:
        proto.version.value = spec.version
    elif spec.label is not None:
        proto.version_label = spec.label


def _field(number: int, content: bytes) -> bytes:
    """A field of the wire format."""
    return varint(number << 3 | _LENGTH_DELIMITED) + varint(len(content)) + content
