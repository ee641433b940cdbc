"""Example requests as Python programs for gRPC, ready to run."""

from __future__ import annotations

from app.tools.example import Example

_STUB = "prediction_service_pb2_grpc.PredictionServiceStub(channel)"


def grpc_snippet(example: Example, model: str, version: int | None, address: str) -> str:
    """A Python program that sends `example` to the server at `address` (HOST:PORT) and prints the answer."""
    name, method = example.signature.name, example.method.capitalize()
    module, kind = {
        "predict": ("predict_pb2", "PredictRequest"),
        "classify": ("classification_pb2", "ClassificationRequest"),
        "regress": ("regression_pb2", "RegressionRequest"),
    }[example.method]
    lines = ["import grpc", *(["import tensorflow as tf"] if example.inputs else [])]
    lines += [
        f"from tensorflow_serving.apis import {module}, prediction_service_pb2_grpc",
        "",
        f"request = {module}.{kind}()",
        f"request.model_spec.name = {model!r}",
        f"request.model_spec.signature_name = {name!r}",
    ]
    if version is not None:
        lines.append(f"request.model_spec.version.value = {version}")
    for alias, value in example.inputs.items():
        # A single value fills the whole shape.
        made = f"tf.make_tensor_proto({value.value!r}, {_tf_type(value.dtype.name)}, {list(value.shape)})"
        lines.append(f"request.inputs[{alias!r}].CopyFrom({made})")
    if example.method != "predict":
        lines.append("features = request.input.example_list.examples.add().features")
        for feature, values in example.features.items():
            kind = {float: "float", int: "int64"}.get(type(values[0]), "bytes")
            lines.append(f"features.feature[{feature!r}].{kind}_list.value.extend({values!r})")
    lines += [
        f"with grpc.insecure_channel({address!r}) as channel:",
        f"    print({_STUB}.{method}(request, timeout=10))",
    ]
    return "\n".join(lines)


def _tf_type(name: str) -> str:
    names = {"float": "float32", "double": "float64", "half": "float16"}
    return f"tf.{names.get(name, name)}"
