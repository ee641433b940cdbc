"""Parsing: the same values and errors whichever of the three parsers answers."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import Code, ServingError
from app.rest.json_parser import parse
from app.rest.json_reader import Reader

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
JSON_ALPHABET = st.lists(
    st.sampled_from(
        [*'[]{},:"\\0123456789eE+-. \n', "true", "null", "NaN", "-Inf", '"a"', "\\u00e9", "\\ud800", "\x00"]
    ),
    max_size=12,
).map(lambda parts: "".join(parts).encode())


def same(one: object, other: object) -> bool:
    """Equal in value, type and key order; NaN equals NaN and -0.0 differs from 0.0."""
    return repr(one) == repr(other)


def outcome(body: bytes, *, carefully: bool) -> str:
    try:
        return repr(Reader(body).document() if carefully else parse(body))
    except ServingError as error:
        return str(error)


@given(DOCUMENTS, st.booleans())
def test_valid_documents(document: object, ascii_only: bool) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only)
    try:
        body = text.encode()
    except UnicodeEncodeError:  # lone surrogates have no UTF-8
        return
    if ascii_only and "\\ud" in text:
        return
    assert same(parse(body), document)
    assert same(Reader(body).document(), document)


@given(JSON_ALPHABET)
@example(b"\xef\xbb\xbf[1]")
@example(b'{"a":1,"a":2}')
@example(b'{"a":"x:y","b":[NaN]} tail')
@example(b"0e308")
def test_near_json_has_one_answer(body: bytes) -> None:
    if body:
        assert outcome(body, carefully=False) == outcome(body, carefully=True)


@given(st.binary(max_size=40))
def test_any_bytes(body: bytes) -> None:
    for text in (body, b'{"a":["' + body, b"[1" + body):
        if (answer := outcome(text, carefully=False)).startswith("INVALID"):
            assert answer.startswith("INVALID_ARGUMENT: JSON Parse error: The document is empty") or (
                " at offset: " in answer
            )


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "The document is empty"),
        (b"  ", "The document is empty. at offset: 2"),
        (b"\x00", "The document is empty. at offset: 0"),
        (b":", "The document is empty. at offset: 0"),
        (b"\xef\xbb\xbf", "The document is empty. at offset: 3"),
        (b"notjson", "Invalid value. at offset: 1"),
        (b"tru", "Invalid value. at offset: 3"),
        (b"[truE]", "Invalid value. at offset: 4"),
        (b"[1,]", "Invalid value. at offset: 3"),
        (b"[.5]", "Invalid value. at offset: 1"),
        (b"[+1]", "Invalid value. at offset: 1"),
        (b"[-]", "Invalid value. at offset: 2"),
        (b'{"instances": [nan]}', "Invalid value. at offset: 16"),
        (b"[Infinit]", "Invalid value. at offset: 8"),
        (b'{"a":]', "Invalid value. at offset: 5"),
        (b"/*x*/1", "Invalid value. at offset: 0"),
        (b"['a']", "Invalid value. at offset: 1"),
        (b'{"instances": [1.0, ', "Invalid value. at offset: 20"),
        (b"{", "Missing a name for object member. at offset: 1"),
        (b"{instances:[1.0]}", "Missing a name for object member. at offset: 1"),
        (b'{"a":1,}', "Missing a name for object member. at offset: 7"),
        (b'{"instances" [1]}', "Missing a colon after a name of object member. at offset: 13"),
        (b'{"inputs":[1]', "Missing a comma or '}' after an object member. at offset: 13"),
        (b'{"instances": [1', "Missing a comma or ']' after an array element. at offset: 16"),
        (b"[01]", "Missing a comma or ']' after an array element. at offset: 2"),
        (b"[1 2]", "Missing a comma or ']' after an array element. at offset: 3"),
        (b"[NaNa]", "Missing a comma or ']' after an array element. at offset: 4"),
        (b"[1\x00]", "Missing a comma or ']' after an array element. at offset: 2"),
        (b"\xef\xbb\xbf[1x", "Missing a comma or ']' after an array element. at offset: 5"),
        (b"[1.]", "Miss fraction part in number. at offset: 3"),
        (b"1.", "Miss fraction part in number. at offset: 2"),
        (b"[1e]", "Miss exponent in number. at offset: 3"),
        (b"[1e+]", "Miss exponent in number. at offset: 4"),
        (b'{"instances": [1e400]}', "Number too big to be stored in double. at offset: 15"),
        (b"[0.001e312]", "Number too big to be stored in double. at offset: 1"),
        (b"[1" + b"0" * 400 + b"]", "Number too big to be stored in double. at offset: 1"),
        (b'["a', "Missing a closing quotation mark in string. at offset: 3"),
        (b'["a\x00"]', "Missing a closing quotation mark in string. at offset: 3"),
        (b'["\x7f\x01"]', "Invalid escape character in string. at offset: 3"),
        (b'["\\x"]', "Invalid escape character in string. at offset: 2"),
        (b'["\\uZZZZ"]', "Incorrect hex digit after \\u escape in string. at offset: 2"),
        (b'["\\ud800"]', "The surrogate pair in string is invalid. at offset: 2"),
        (b'["\\ud800\\u0041"]', "The surrogate pair in string is invalid. at offset: 2"),
    ],
)
def test_errors(body: bytes, text: str) -> None:
    with pytest.raises(ServingError) as caught:
        parse(body)
    assert caught.value.message == f"JSON Parse error: {text}"
    assert caught.value.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":[1.0]} garbage', {"a": [1.0]}),
        (b'{"a":1}}', {"a": 1}),
        (b"\xef\xbb\xbf{}", {}),
        (b'{"a":1,"a":2}', {"a": 1}),
        (b'{"a":1,"b":3,"a":[{}]}', {"a": 1, "b": 3}),
        (b'{"i":[{"x":{"b":1,"b":2}},{"x":1}]}', {"i": [{"x": {"b": 1}}, {"x": 1}]}),
        (b'{"a":["x:y",":"],"a":2}', {"a": ["x:y", ":"]}),
        (b"[NaN, Inf, -Infinity]", [math.nan, math.inf, -math.inf]),
        (b'{"a":[NaN,-Infinity,Infinity,1]}', {"a": [math.nan, -math.inf, math.inf, 1]}),
        (b"[-0, -0.0, 1, 1.0, 1e2]", [0, -0.0, 1, 1.0, 100.0]),
        (b'{"a":-0, "b":NaN, "c": 1E5}', {"a": 0, "b": math.nan, "c": 1e5}),
        (b"[18446744073709551615, 18446744073709551616]", [2**64 - 1, float(2**64)]),
        (b"[-9223372036854775808, -9223372036854775809]", [-(2**63), -float(2**63)]),
        (b'{"a":NaN,"b":[18446744073709551616]}', {"a": math.nan, "b": [float(2**64)]}),
        # Just above the range a number may become infinite: RapidJSON looks at the exponent alone.
        (b"[1.8e308, -18e307]", [math.inf, -math.inf]),
        (b"[NaN.5, -Inf.5, NaInf]", [0.5, -0.5, math.inf]),
        (b'["\\ud83d\\ude00 \\u00e9 \\/\\b"]', ["😀 é /\b"]),
        (b'["\xff\xc3\xa9"]', ["\udcffé"]),
        (b'["\\udc00"]', ["\udced\udcb0\udc80"]),
        (b'{"\xff":1}', {"\udcff": 1}),
    ],
)
def test_what_the_standard_does_not_allow(body: bytes, value: object) -> None:
    assert same(parse(body), value)
    assert same(Reader(body).document(), value)


def test_nesting_is_not_limited() -> None:
    depth = 100_000
    value = parse(b"[" * depth + b"1" + b"]" * depth)
    levels = 0
    while isinstance(value, list):
        (value,) = value
        levels += 1
    assert (levels, value) == (depth, 1)


def test_hostile_bodies_are_answered() -> None:
    # Of these sizes a parser whose time is quadratic would not come back.
    for body in (
        b"[" * 200_000,
        b'"' + b"\\n" * 100_000,
        b"[1" + b"0" * 200_000,
        b"0." + b"0" * 200_000 + b"e999",
    ):
        outcome(body, carefully=False)


@pytest.mark.parametrize("limit", [3, 1023, 1024, 2000])
def test_nesting_can_be_limited(limit: int) -> None:
    def nested(depth: int) -> bytes:
        return b'[{"[[[[": "]\\"[[["}],' * 2 + b"[" * depth + b"1" + b"]" * depth

    for depth in (limit - 1, limit):
        body = b"[" + nested(depth - 1) + b"]"
        parse(body, limit)
    for depth in (limit + 1, limit + 100_000):
        with pytest.raises(ServingError, match=f"more than {limit} levels of brackets"):
            parse(b"[" + nested(depth - 1) + b"]", limit)


def test_a_text_without_an_end_does_not_hide_what_is_before_it() -> None:
    with pytest.raises(ServingError, match="more than 2 levels"):
        parse(b'[[["[', 2)
