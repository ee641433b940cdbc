"""Requests from a user's files: JSON as REST has it, or NumPy's arrays."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.api.tensor_proto import from_array
from app.engine import dtypes
from app.engine.dtypes import Array
from app.engine.signature import DEFAULT_SIGNATURE, Signature
from app.errors import ServingError, invalid_argument
from app.rest.json_decode import PredictBody, to_tensors
from app.rest.json_examples import read_examples
from app.tools.example import Example


@dataclass(frozen=True)
class Request:
    """A request to send or to record.

    Attributes:
        signature: whom it asks.
        method: `predict`, `classify` or `regress`.
        inputs: by alias, for predict.
        examples: an `Input` message, for the other two.
        body: the JSON that it came from; empty if it came from arrays.
    """

    signature: Signature
    method: str
    inputs: Mapping[str, Array]
    examples: Any = None
    body: bytes = b""

    def message(self, model: str, version: int | None = None) -> Any:
        """The request's message."""
        empty = Example(self.signature, self.method, {}, {})
        message = empty.message(model, version)
        if self.method != "predict":
            message.input.CopyFrom(self.examples)
            return message
        for alias, value in self.inputs.items():
            from_array(value, self.signature.inputs[alias].dtype, into=message.inputs[alias])
        return message

    def rest_body(self) -> bytes:
        """The JSON body of the request."""
        if self.body:
            return self.body
        columns = {alias: _plain(value) for alias, value in self.inputs.items()}
        return json.dumps({"signature_name": self.signature.name, "inputs": columns}).encode()


def read_requests(path: str, signatures: Mapping[str, Signature], default: str = "") -> list[Request]:
    """The requests in a file.

    Args:
        path: `.json`: a REST body, or a list of them; `.npz`: an array for each input, by its name; `.npy`:
            an array for the only input.
        signatures: of the model, by name.
        default: the signature of requests that name none; empty for `serving_default`.

    Raises:
        ServingError: INVALID_ARGUMENT for what cannot be read, or does not fit the signature.
    """
    name = default or DEFAULT_SIGNATURE
    kind = os.path.splitext(path)[1]
    try:
        if kind == ".json":
            with open(path, encoding="utf-8") as stream:
                found = json.load(stream)
            documents = found if isinstance(found, list) else [found]
            return [_from_document(document, signatures, name) for document in documents]
        if kind == ".npz":
            with np.load(path) as arrays:
                return [_from_arrays(dict(arrays), _named(signatures, name))]
        if kind == ".npy":
            signature = _named(signatures, name)
            aliases = list(signature.inputs)
            if len(aliases) != 1:
                raise invalid_argument(
                    f"signature {name} has {len(aliases)} inputs, a .npy file one array: use .npz with "
                    f"{', '.join(aliases) or 'nothing'}."
                )
            return [_from_arrays({aliases[0]: np.load(path)}, signature)]
    except (OSError, ValueError) as error:
        raise invalid_argument(f"{path}: {error}") from None
    except ServingError as error:
        raise ServingError(error.code, f"{path}: {error.message}") from None
    raise invalid_argument(f"{path}: its name has to end in .json, .npz or .npy.")


def _named(signatures: Mapping[str, Signature], name: str) -> Signature:
    if name not in signatures:
        raise invalid_argument(f"there is no signature {name}; there are: {', '.join(signatures)}.")
    return signatures[name]


def _from_document(document: Any, signatures: Mapping[str, Signature], default: str) -> Request:
    if not isinstance(document, dict):
        raise invalid_argument("a request is a JSON object, as REST takes it.")
    document = {"signature_name": default, **document}
    signature = _named(signatures, document["signature_name"])
    body = json.dumps(document).encode()
    if "examples" in document:
        method = signature.method_name.rpartition("/")[2]
        if method not in ("classify", "regress"):
            raise invalid_argument(f"signature {signature.name} takes no examples, but inputs or instances.")
        return Request(signature, method, {}, read_examples(body).input, body)
    inputs, _ = to_tensors(PredictBody(signature.name, document), signature.inputs)
    return Request(signature, "predict", inputs, body=body)


def _from_arrays(arrays: Mapping[str, Array], signature: Signature) -> Request:
    if arrays.keys() != signature.inputs.keys():
        raise invalid_argument(
            f"signature {signature.name} has the inputs {', '.join(signature.inputs)}; the file has "
            f"{', '.join(arrays)}."
        )
    inputs: dict[str, Array] = {}
    for alias, value in arrays.items():
        wanted = signature.inputs[alias].dtype
        if wanted == dtypes.STRING:
            texts = [
                text.encode() if isinstance(text, str) else bytes(text) for text in value.ravel().tolist()
            ]
            flat = np.empty(len(texts), object)
            flat[:] = texts
            inputs[alias] = flat.reshape(value.shape)
        elif not np.can_cast(value.dtype, wanted.numpy, "same_kind"):
            raise invalid_argument(f"input {alias} is {wanted.name}; the file's array is {value.dtype}.")
        else:
            inputs[alias] = value.astype(wanted.numpy)
    return Request(signature, "predict", inputs)


def _plain(value: Array) -> Any:
    """An array as JSON has it; strings as base64 objects."""
    return _as_json(value.tolist())


def _as_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
