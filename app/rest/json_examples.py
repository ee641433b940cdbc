"""The JSON body of REST classify and regress to the `Input` message, by TensorFlow Serving's rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tensorflow_serving.apis import input_pb2

from app.errors import invalid_argument
from app.rest.debug_text import to_bytes
from app.rest.json_decode import read_document
from app.rest.json_values import decode_base64, format_error, is_base64, type_name

_INT64_MAX = 2**63 - 1


@dataclass(frozen=True)
class ExamplesBody:
    """A classify or regress request.

    Attributes:
        signature_name: empty when absent.
        input: an `Input` message.
    """

    signature_name: str
    input: Any


def read_examples(body: bytes, max_depth: int = 0) -> ExamplesBody:
    """Parse a request, which needs no model: features say their kind themselves.

    Args:
        body: the JSON.
        max_depth: levels of brackets in it; 0 for any number.

    Raises:
        ServingError: INVALID_ARGUMENT with TensorFlow Serving's text.
    """
    request = read_document(body, max_depth)
    document = request.document
    message = input_pb2.Input()
    context = document.get("context")
    if "context" in document:
        _fill(message.example_list_with_context.context, context)
    if "examples" not in document:
        # The text says classify for regress, too.
        raise format_error(document, "When method is classify, key 'examples' is expected and was not found")
    examples = document["examples"]
    if not isinstance(examples, list):
        raise format_error(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise format_error(document, "'examples' value is an empty array")
    target = message.example_list_with_context if "context" in document else message.example_list
    for example in examples:
        _fill(target.examples.add(), example)
    return ExamplesBody(request.signature_name, message)


def _fill(example: Any, document: object) -> None:
    if not isinstance(document, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {type_name(document)}")
    for name, value in document.items():
        values = value if isinstance(value, list) else [value]
        feature = example.features.feature[_text(name)]
        kind = ""
        for element in values:
            found, converted = _element(name, element)
            if kind and found != kind:
                raise invalid_argument(f"Unexpected element type in feature: {name} expecting type: {kind}")
            kind = found
            getattr(feature, f"{kind}_list").value.append(converted)


def _element(name: str, element: object) -> tuple[str, Any]:
    """The kind of one value of a feature, and the value as that kind holds it."""
    if isinstance(element, (bool, int)):
        if element > _INT64_MAX:
            raise invalid_argument(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
        return "int64", int(element)
    if isinstance(element, float):
        return "float", element
    if isinstance(element, str):
        return "bytes", to_bytes(element)
    if is_base64(element):
        return "bytes", decode_base64(element)
    raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {type_name(element)}")


def _text(name: str) -> str:
    """A feature's name as a proto can hold it: what is not UTF-8 becomes a question mark."""
    return to_bytes(name).decode(errors="replace")
