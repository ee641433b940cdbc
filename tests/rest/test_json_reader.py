"""The careful parser by itself; tests/rest/test_json_parser.py compares it with the fast ones."""

from __future__ import annotations

import math

import pytest

from app.errors import ServingError
from app.rest.json_reader import Reader, integer


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": [1, 2.5, -0, true, null, "x"]} rest', {"a": [1, 2.5, 0, True, None, "x"]}),
        (b'{"a": 1, "a": 2}', {"a": 1}),
        (b"[-Infinity, Inf]", [-math.inf, math.inf]),
        (b'"\\u00e9\\ud83d\\ude00\\n"', "\u00e9\U0001f600\n"),
        (b'"\xff"', "\udcff"),
    ],
)
def test_documents(body: bytes, value: object) -> None:
    assert Reader(body).document() == value


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{instances: [1.0]}", "Missing a name for object member. at offset: 1"),
        (b"[1.0,]", "Invalid value. at offset: 5"),
        (b"[1 2]", "Missing a comma or ']' after an array element. at offset: 3"),
        (b"[1e400]", "Number too big to be stored in double. at offset: 1"),
        (b'["\\x"]', "Invalid escape character in string. at offset: 2"),
    ],
)
def test_errors_and_their_offsets(body: bytes, message: str) -> None:
    with pytest.raises(ServingError) as raised:
        Reader(body).document()
    assert raised.value.message == f"JSON Parse error: {message}"


def test_integers_beyond_64_bits_are_floats() -> None:
    assert integer(str(2**64 - 1)) == 2**64 - 1
    assert isinstance(integer(str(2**64)), float)
    assert isinstance(integer(str(-(2**63) - 1)), float)
