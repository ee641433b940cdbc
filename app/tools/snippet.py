"""Example requests as Python programs for gRPC, ready to run."""

from __future__ import annotations

from dataclasses import replace

from app.tools.access import OPEN, Access
from app.tools.example import Example

_STUB = "prediction_service_pb2_grpc.PredictionServiceStub(channel)"


def grpc_snippet(
    example: Example, model: str, version: int | None, address: str, access: Access = OPEN
) -> str:
    """A Python program that sends `example` to a server and prints the answer.

    Args:
        example: the request.
        model: its name.
        version: its number; None for the newest.
        address: HOST:PORT or grpc://HOST:PORT; with TLS grpcs://HOST:PORT.
        access: what the server wants to see; files are read by the program.
    """
    name, method = example.signature.name, example.method.capitalize()
    module, kind = {
        "predict": ("predict_pb2", "PredictRequest"),
        "classify": ("classification_pb2", "ClassificationRequest"),
        "regress": ("regression_pb2", "RegressionRequest"),
    }[example.method]
    lines = ["from pathlib import Path"] if access.uses_files(tls=address.startswith("grpcs:")) else []
    lines += ["import grpc", *(["import tensorflow as tf"] if example.inputs else [])]
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
    scheme, _, host = address.rpartition("://")
    channel = f"insecure_channel({host!r}"
    if scheme == "grpcs":
        files = (access.ca, access.key or access.cert, access.cert)
        lines.append(f"tls = grpc.ssl_channel_credentials({', '.join(map(_read, files))})")
        channel = f"secure_channel({host!r}, tls"
    metadata = ""
    if access.header or access.token_file:
        lines.append(f"metadata = {_metadata(access)}")
        metadata = "metadata=metadata, "
    lines += [
        f"with grpc.{channel}) as channel:",
        f"    print({_STUB}.{method}(request, {metadata}timeout=10))",
    ]
    return "\n".join(lines)


def _read(name: str) -> str:
    return f"Path({name!r}).read_bytes()" if name else "None"


def _metadata(access: Access) -> str:
    """The headers as an expression; the token stays in its file."""
    shown = replace(access, token_file="").headers()
    pairs = [f"({name!r}, {value!r})" for name, value in shown.items()]
    if access.token_file:
        pairs.append(f"('authorization', 'Bearer ' + Path({access.token_file!r}).read_text().strip())")
    return f"[{', '.join(pairs)}]"


def _tf_type(name: str) -> str:
    names = {"float": "float32", "double": "float64", "half": "float16"}
    return f"tf.{names.get(name, name)}"
