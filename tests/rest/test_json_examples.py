from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_serving.apis import input_pb2

from app.errors import Code, ServingError
from app.rest.json_examples import read_examples


def read(document: Any) -> Any:
    return read_examples(json.dumps(document).encode()).input


def features(example: Any) -> dict[str, tuple[str | None, list[Any]]]:
    """Kind and values of each feature."""
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = (kind, list(getattr(feature, kind).value) if kind else [])
    return found


@pytest.mark.parametrize(
    ("value", "kind", "values"),
    [
        (1, "int64_list", [1]),
        ([1, -2], "int64_list", [1, -2]),
        (True, "int64_list", [1]),
        ([False, 3], "int64_list", [0, 3]),
        (1.5, "float_list", [1.5]),
        (2**64, "float_list", [2.0**64]),
        ("a", "bytes_list", [b"a"]),
        ({"b64": "YQ=="}, "bytes_list", [b"a"]),
        (["a", {"b64": "Yg"}], "bytes_list", [b"a", b"b"]),
        ([], None, []),
    ],
)
def test_values_say_the_kind_of_their_feature(value: Any, kind: str | None, values: list[Any]) -> None:
    (example,) = read({"examples": [{"x": value}]}).example_list.examples
    assert features(example) == {"x": (kind, values)}


def test_a_context_makes_it_a_list_with_context() -> None:
    message = read({"context": {"c": "d"}, "examples": [{"x": 1.0}, {}]}).example_list_with_context
    assert features(message.context) == {"c": ("bytes_list", [b"d"])}
    assert [features(example) for example in message.examples] == [{"x": ("float_list", [1.0])}, {}]


def test_the_signature_is_read_too() -> None:
    assert read_examples(b'{"signature_name": "s", "examples": [{}]}').signature_name == "s"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "JSON Value: {} When method is classify, key 'examples' is expected and was not found"),
        (
            {"examples": 1},
            "JSON Value: {\n    \"examples\": 1\n} Expecting 'examples' value to be an list/array",
        ),
        ({"examples": []}, "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [[]]}, "Example must be JSON object but got JSON Array"),
        ({"context": None, "examples": [{}]}, "Example must be JSON object but got JSON Null"),
        # The context is looked at before the examples.
        ({"context": True}, "Example must be JSON object but got JSON True"),
        ({"examples": [{"f": None}]}, "Feature: f has element with unexpected JSON type: Null"),
        ({"examples": [{"f": [[1]]}]}, "Feature: f has element with unexpected JSON type: Array"),
        ({"examples": [{"f": {"x": 1}}]}, "Feature: f has element with unexpected JSON type: Object"),
        ({"examples": [{"f": [1, 2.5]}]}, "Unexpected element type in feature: f expecting type: int64"),
        ({"examples": [{"f": [1.5, 2]}]}, "Unexpected element type in feature: f expecting type: float"),
        ({"examples": [{"f": ["a", 2]}]}, "Unexpected element type in feature: f expecting type: bytes"),
        (
            {"examples": [{"f": 2**63}]},
            "Feature: f has uint64_t element. Only int64_t is supported.",
        ),
        ({"examples": [{"f": {"b64": "?"}}]}, "Unable to base64 decode"),
    ],
)
def test_errors(document: Any, message: str) -> None:
    with pytest.raises(ServingError) as raised:
        read(document)
    assert (raised.value.code, raised.value.message) == (Code.INVALID_ARGUMENT, message)


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
documents = st.recursive(
    plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


@given(st.lists(st.dictionaries(st.text(), documents, max_size=4), min_size=1, max_size=4))
def test_any_document_gives_an_input_or_an_error(examples: list[Any]) -> None:
    body = json.dumps({"examples": examples}).encode()
    with contextlib.suppress(ServingError):  # and nothing else may come
        message = read_examples(body).input
        assert isinstance(message, input_pb2.Input)
        assert len(message.example_list.examples) == len(examples)
