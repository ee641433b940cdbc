"""The V of error messages: RapidJSON's pretty layout, cut off after 256 bytes."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.rest.debug_text import LIMIT_BYTES, debug_text, quoted

KEYS = st.text(max_size=5)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (2**64 - 1, "18446744073709551615"),
        ("", '""'),
        ([], "[]"),
        ({}, "{}"),
        ([1, "a", [2.5, None]], '[1, "a", [2.5, null]]'),
        ({"instances": 1.0}, '{\n    "instances": 1.0\n}'),
        ({"a": {"b": 1}, "c": []}, '{\n    "a": {\n        "b": 1\n    },\n    "c": []\n}'),
        # An array stays on one line but counts as a level of indentation.
        (
            {"a": {}, "b": [], "c": [{"q": 1}, 2]},
            '{\n    "a": {},\n    "b": [],\n    "c": [{\n            "q": 1\n        }, 2]\n}',
        ),
    ],
)
def test_layout(value: object, text: str) -> None:
    assert debug_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.0"),
        (100.0, "100.0"),
        (1.5, "1.5"),
        (-0.0, "-0.0"),
        (0.0, "0.0"),
        (123.456, "123.456"),
        (1e20, "100000000000000000000.0"),
        (1e21, "1e21"),
        (1e22, "1e22"),
        (1.5e21, "1.5e21"),
        (-1.5e300, "-1.5e300"),
        (0.1, "0.1"),
        (0.000001, "0.000001"),
        (0.00000123, "0.00000123"),
        (1e-7, "1e-7"),
        (1.25e-10, "1.25e-10"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e308"),
        (float(2**64), "18446744073709552000.0"),
    ],
)
def test_doubles(value: float, text: str) -> None:
    assert debug_text(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_reads_back(value: float) -> None:
    assert math.copysign(1, float(debug_text(value))) == math.copysign(1, value)
    assert float(debug_text(value)) == value


def test_escapes() -> None:
    assert quoted(b'"\\/\b\f\n\r\t\x00\x1f\x7f') == b'"\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001F\x7f"'
    assert debug_text("é中\udcff") == '"é中\udcff"'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_prints_nothing_and_ends_the_text(value: float) -> None:
    assert debug_text(value) == ""
    assert debug_text([1, value, 2]) == "[1, "
    assert debug_text({"a": value}) == '{\n    "a": '


def test_the_last_token_may_overshoot_and_nothing_is_closed() -> None:
    text = debug_text([1] * 1000)
    assert text == "[" + ", ".join(["1"] * 86)
    assert len(text) == LIMIT_BYTES + 1
    assert debug_text(["a" * 300, 1]) == '["' + "a" * 300 + '"'
    assert debug_text("a" * 300) == '"' + "a" * 300 + '"'


def test_the_limit_counts_bytes() -> None:
    assert debug_text(["é" * 127, 1]) == '["' + "é" * 127 + '"'


def test_neither_nesting_nor_size_is_followed_beyond_the_limit() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert debug_text(deep) == "[" * LIMIT_BYTES
    assert debug_text({"x": [0.5] * 1_000_000}).startswith('{\n    "x": [0.5, 0.5')


@given(VALUES)
def test_a_text_that_is_not_cut_off_is_json(value: object) -> None:
    text = debug_text(value)
    if len(text.encode()) < LIMIT_BYTES:
        assert json.loads(text) == value
