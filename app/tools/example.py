"""Example requests, made from what a signature declares: as JSON, as messages, as ready commands."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorflow_serving.apis import classification_pb2, input_pb2, predict_pb2, regression_pb2

from app.api.tensor_proto import from_array
from app.engine import dtypes
from app.engine.dtypes import Array, DType
from app.engine.signature import Signature, TensorSpec
from app.tools.graph import Facts, Feature

# One grey pixel, for models that decode pictures.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
_METHODS = ("classify", "regress")
_OPEN_SIZES = (1, 32, 224)  # of open dimensions other than the first: tried in this order
_JSON_TYPES = frozenset(
    ("float", "double", "int8", "uint8", "int16", "int32", "int64", "uint32", "uint64", "bool", "string")
)
_LONGEST = 64  # elements that are written out; above it a command computes them
_PICTURE_NAMES = ("image", "jpeg", "jpg", "png", "picture", "photo")

Scalar = float | int | bool | bytes


@dataclass(frozen=True)
class Filled:
    """A tensor whose elements are all the same.

    Attributes:
        dtype: of the elements.
        shape: without open dimensions.
        value: of every element.
    """

    dtype: DType
    shape: tuple[int, ...]
    value: Scalar

    @property
    def array(self) -> Array:
        """The tensor itself; strings are an object array of bytes."""
        return np.full(self.shape, self.value, self.dtype.numpy)

    def row(self) -> Filled:
        """One slice along the first dimension."""
        return Filled(self.dtype, self.shape[1:], self.value)

    def nested(self) -> Any:
        """The tensor as JSON has it."""
        value: Any = _json_scalar(self.value)
        for size in reversed(self.shape):
            value = [value] * size
        return value

    def expression(self) -> str:
        """Python's text for `nested`, short whatever the shape."""
        scalar = _json_scalar(self.value)
        text = repr(scalar) if isinstance(scalar, (bool, int, float)) else json.dumps(scalar)
        for size in reversed(self.shape):
            text = f"[{text}]" if size == 1 else f"[{text}] * {size}"
        return text


def _json_scalar(value: Scalar) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


@dataclass(frozen=True)
class Example:
    """A request that a signature should answer.

    Attributes:
        signature: what is asked.
        method: `predict`, `classify` or `regress`.
        inputs: by alias, for predict.
        features: name to values of the one tf.Example, for the other two; of predict, what its strings hold.
    """

    signature: Signature
    method: str
    inputs: Mapping[str, Filled]
    features: Mapping[str, list[Scalar]]

    def rest_obstacle(self) -> str:
        """Why REST cannot ask this; empty if it can."""
        if not self.signature.inputs:
            return "REST cannot call a signature without inputs."
        if self.method != "predict":
            return ""
        for side, specs in (("input", self.signature.inputs), ("output", self.signature.outputs)):
            for spec in specs.values():
                if spec.dtype.name not in _JSON_TYPES:
                    return f"JSON cannot carry the {side} {spec.alias} of type {spec.dtype.name}."
        return ""

    def rest_body(self) -> dict[str, Any]:
        """The JSON body of the request."""
        head = {} if self.signature.name == "serving_default" else {"signature_name": self.signature.name}
        if self.method != "predict":
            values = {name: [_json_scalar(value) for value in row] for name, row in self.features.items()}
            return {**head, "examples": [values]}
        if self._by_rows():
            rows = {alias: value.row().nested() for alias, value in self.inputs.items()}
            return {
                **head,
                "instances": [rows if len(rows) > 1 else next(iter(rows.values()))] * self._batch(),
            }
        columns = {alias: value.nested() for alias, value in self.inputs.items()}
        return {**head, "inputs": columns if len(columns) > 1 else next(iter(columns.values()))}

    def curl(self, url: str, options: str = "") -> str:
        """A shell command that sends the request to `url`, that of the model without the method.

        `options` are curl's, each followed by a space.
        """
        target = shlex.quote(f"{url}:{self.method}")
        if self._elements() <= _LONGEST:
            return f"curl -s {options}-d {shlex.quote(json.dumps(self.rest_body()))} {target}"
        by_rows = self._by_rows()
        texts = {
            alias: (value.row() if by_rows else value).expression() for alias, value in self.inputs.items()
        }
        members = ", ".join(f"{json.dumps(alias)}: {text}" for alias, text in texts.items())
        inner = f"{{{members}}}" if len(texts) > 1 else next(iter(texts.values()))
        body = f'"instances": [{inner}] * {self._batch()}' if by_rows else f'"inputs": {inner}'
        if self.signature.name != "serving_default":
            body = f'"signature_name": {json.dumps(self.signature.name)}, {body}'
        program = shlex.quote(f"import json; print(json.dumps({{{body}}}))")
        return f"python3 -c {program} | curl -s {options}-d @- {target}"

    def message(self, model: str, version: int | None = None) -> Any:
        """The request's message: a PredictRequest, ClassificationRequest or RegressionRequest."""
        kinds = {
            "predict": predict_pb2.PredictRequest,
            "classify": classification_pb2.ClassificationRequest,
            "regress": regression_pb2.RegressionRequest,
        }
        message = kinds[self.method]()
        message.model_spec.name = model
        message.model_spec.signature_name = self.signature.name
        if version is not None:
            message.model_spec.version.value = version
        if self.method == "predict":
            for alias, value in self.inputs.items():
                from_array(value.array, value.dtype, into=message.inputs[alias])
        else:
            _fill(message.input.example_list.examples.add(), self.features)
        return message

    def _by_rows(self) -> bool:
        """Whether the row format fits: a first dimension that is open, in every input and output."""
        specs = [*self.signature.inputs.values(), *self.signature.outputs.values()]
        return all(spec.shape is not None and spec.shape[:1] == (-1,) for spec in specs)

    def _batch(self) -> int:
        return next(iter(self.inputs.values())).shape[0]

    def _elements(self) -> int:
        return sum(int(np.prod(value.shape)) for value in self.inputs.values())


def _fill(example: Any, features: Mapping[str, list[Scalar]]) -> None:
    for name, values in features.items():
        kind = {float: "float", int: "int64"}.get(type(values[0]), "bytes")
        getattr(example.features.feature[name], f"{kind}_list").value.extend(values)


def serialised(features: Mapping[str, list[Scalar]]) -> bytes:
    """A tf.Example of `features`, as a string tensor holds it."""
    examples = input_pb2.ExampleList()
    _fill(examples.examples.add(), features)
    return bytes(examples.examples[0].SerializeToString())


def examples(signature: Signature, facts: Facts | None = None, batch: int = 1) -> Iterator[Example]:
    """Requests that `signature` may answer, the likeliest first.

    Args:
        signature: gives names, types and shapes.
        facts: what its graph holds; None if the graph is not known.
        batch: the size of each open first dimension of predict's inputs.
    """
    specs = signature.inputs.values()
    facts = facts or Facts()
    texts = dict.fromkeys((_text(facts), b"", PNG, b"0")) if _has_strings(signature) else {b"": None}
    method = signature.method_name.rpartition("/")[2]
    if method in _METHODS:
        for text in dict.fromkeys((_bytes(facts), b"", PNG, b"0")):
            yield Example(signature, method, {}, feature_values(facts.features, text))
        return
    if any(spec.dtype.numpy.hasobject and spec.dtype != dtypes.STRING for spec in specs):
        return
    is_open = any(size < 0 for spec in specs for size in (spec.shape or ())[1:])
    for size in _OPEN_SIZES if is_open else _OPEN_SIZES[:1]:
        for text in texts:
            inputs = {spec.alias: _filled(spec, batch, size, text, facts) for spec in specs}
            yield Example(signature, "predict", inputs, {})


def _text(facts: Facts) -> bytes:
    """What a string input most likely has to hold."""
    return serialised(feature_values(facts.features, _bytes(facts))) if facts.features else _bytes(facts)


def _bytes(facts: Facts) -> bytes:
    return PNG if facts.decodes_images else b""


def _has_strings(signature: Signature) -> bool:
    return any(spec.dtype == dtypes.STRING for spec in signature.inputs.values())


def feature_values(features: tuple[Feature, ...], text: bytes = b"") -> dict[str, list[Scalar]]:
    """Values for `features` by name; `text` for those of bytes."""
    by_kind: dict[str, Scalar] = {"float": 1.0, "int64": 0, "bytes": text}
    return {feature.name: [by_kind[feature.kind]] * feature.count for feature in features}


def _filled(spec: TensorSpec, batch: int, size: int, text: bytes, facts: Facts) -> Filled:
    declared = (-1,) if spec.shape is None else spec.shape
    shape = tuple(length if length >= 0 else size if axis else batch for axis, length in enumerate(declared))
    if spec.dtype == dtypes.STRING:
        is_picture = not facts.features and any(word in spec.alias.lower() for word in _PICTURE_NAMES)
        return Filled(spec.dtype, shape, PNG if is_picture and not text else text)
    kind = spec.dtype.numpy.kind
    return Filled(spec.dtype, shape, True if kind == "b" else 0 if kind in "iu" else 1.0)
