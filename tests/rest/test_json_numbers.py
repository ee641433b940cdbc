"""The short way for numbers gives what the careful way gives, or nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.engine import dtypes
from app.engine.dtypes import Array
from app.engine.signature import TensorSpec
from app.errors import ServingError
from app.rest.json_decode import NumbersBody, PredictReader, read_document, to_tensors
from app.rest.json_numbers import NumberReader

_NUMBERS = {
    "float": 1,
    "double": 2,
    "int32": 3,
    "uint8": 4,
    "int64": 9,
    "uint32": 22,
    "uint64": 23,
}
_OTHERS = {"string": 7, "bool": 10, "half": 19}


def specs(**types: str) -> dict[str, TensorSpec]:
    numbers = _NUMBERS | _OTHERS
    return {
        alias: TensorSpec(alias, f"{alias}:0", dtypes.from_number(numbers[name]), None)
        for alias, name in types.items()
    }


def short(body: bytes, inputs: dict[str, TensorSpec]) -> tuple[dict[str, Array], bool] | None:
    numbers = NumberReader().read(body)
    if numbers is None or numbers.signature_name is None:
        return None
    return numbers.tensors(inputs)


def same(found: tuple[dict[str, Array], bool], expected: tuple[dict[str, Array], bool]) -> bool:
    return (
        found[1] == expected[1]
        and found[0].keys() == expected[0].keys()
        and all(
            array.dtype == expected[0][alias].dtype
            and array.shape == expected[0][alias].shape
            and array.tobytes() == expected[0][alias].tobytes()
            for alias, array in found[0].items()
        )
    )


def check(body: bytes, inputs: dict[str, TensorSpec]) -> bool:
    """Whether the short way was taken; it must agree with the careful one."""
    found = short(body, inputs)
    if found is None:
        return False
    document = read_document(body)
    assert same(found, to_tensors(document, inputs))
    return True


# --- what takes the short way ---

IMAGES = np.random.default_rng(5).random((2, 9, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("indent", [0, orjson.OPT_INDENT_2])
@pytest.mark.parametrize(
    "document",
    [
        {"instances": IMAGES},
        {"inputs": IMAGES},
        {"signature_name": "a[1,2] e", "instances": IMAGES},
        {"instances": IMAGES, "signature_name": "", "other": [[1, 2], [3, 4]]},
        {"instances": [{"x": image} for image in IMAGES]},
        {"inputs": {"x": IMAGES}},
        {"instances": list(range(2000))},
        {"inputs": 3},
    ],
)
def test_numbers_in_every_form(document: dict[str, Any], indent: int) -> None:
    assert check(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | indent), specs(x="float"))


def test_rows_of_several_inputs() -> None:
    rows = [
        {"a": IMAGES[0], "b": 1, "c": [0] * 300},
        {"c": [1] * 300, "b": 7, "a": IMAGES[1]},
    ]
    body = orjson.dumps({"instances": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
    assert check(body, specs(a="double", b="uint8", c="int64"))


@pytest.mark.parametrize("name", list(_NUMBERS))
def test_every_type_of_integers_wraps_and_refuses_as_the_careful_way(name: str) -> None:
    assert check(b'{"instances": [[1, 2], [3, 40]]}', specs(x=name))
    for number in (-1, 300, 2**31, 2**32, 2**63, 2**64 - 1, -(2**63)):
        check(b'{"inputs": [%d, 1]}' % number, specs(x=name))


# --- what does not ---


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [[1, 2], [3]]}',
        b'{"instances": [[1], [], [2, 3]]}',
        b'{"instances": [[[1, 2, 3], [4]], [[5, 6], [7, 8]]]}',
        b'{"instances": [1, [2]]}',
        b'{"instances": []}',
        b'{"instances": [[], []]}',
        b'{"instances": [1.5, true]}',
        b'{"instances": [1, null]}',
        b'{"instances": [NaN]}',
        b'{"instances": [1, 2, 1e999]}',
        b'{"instances": [1, 184467440737095516160]}',
        b'{"instances": [1], "instances": [2]}',
        b'{"instances": [1], "inputs": [2]}',
        b'{"instances": [1], "signature_name": 4}',
        b'{"instances": [1]} ]',
        b'{"instances": [{"x": [1]}, {"x": [1, 2]}]}',
        b'{"instances": [{"x": [1]}, {"y": [1]}]}',
        b'{"instances": [{"x": 1, "x": 1}]}',
        b'{"instances": [{"b64": "YQ=="}]}',
        b'{"instances": [1], "signature_\\u006eame": "s"}',
        b'\xef\xbb\xbf{"instances": [1]}',
        b'{"instances": ["\xff"]}',
        b"[1]",
        b"",
    ],
)
def test_everything_else_is_left_to_the_careful_way(body: bytes) -> None:
    assert not check(body, specs(x="float"))


_numbers = st.one_of(
    st.integers(-300, 300),
    st.integers(-(2**63), 2**64),
    st.floats(allow_nan=True, width=32),
    st.floats(),
    st.sampled_from([True, None, "1", {"b64": "YQ=="}, -0.0, 1e39, 2**24 + 1, 2**53 + 1]),
)
_plain = st.integers(-5, 300)


def _dense(draw: st.DrawFn, leaf: st.SearchStrategy[Any]) -> Any:
    shape = draw(st.lists(st.integers(0, 3), max_size=4))

    def build(level: int) -> Any:
        return [build(level + 1) for _ in range(shape[level])] if level < len(shape) else draw(leaf)

    return build(0)


_dense_values = st.composite(_dense)
_values = st.one_of(
    _dense_values(_plain),
    _dense_values(_numbers),
    st.recursive(_numbers, lambda inner: st.lists(inner, max_size=4), max_leaves=12),
)
_named = st.dictionaries(st.sampled_from(["x", "y", "b64", "signature_name", "[", "e1"]), _values, max_size=3)
_documents = st.dictionaries(
    st.sampled_from(["instances", "inputs", "signature_name", "other", '"', "5"]),
    st.one_of(_values, _named, st.lists(_named, max_size=3), st.text(max_size=5)),
    min_size=1,
    max_size=3,
)
_types = st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from([*_NUMBERS, *_OTHERS]), min_size=1)


@settings(max_examples=600, deadline=None)
@given(
    document=_documents,
    types=_types,
    indent=st.sampled_from([None, 1]),
    cut=st.none() | st.tuples(st.integers(0, 200), st.binary(max_size=3)),
)
@example({"instances": [[1], []]}, {"x": "float"}, None, None)
def test_both_ways_agree_on_any_body(
    document: dict[str, Any], types: dict[str, str], indent: int | None, cut: tuple[int, bytes] | None
) -> None:
    body = json.dumps(document, indent=indent).encode()
    if cut is not None:
        at, piece = cut
        body = body[: at % (len(body) + 1)] + piece + body[at % (len(body) + 1) + len(piece) // 2 :]
    inputs = specs(**types)
    found = short(body, inputs)
    if found is None:
        return
    assert same(found, to_tensors(read_document(body), inputs))  # does not raise, above all


# --- in its place ---


def outcome(body: bytes, inputs: dict[str, TensorSpec]) -> str:
    try:
        to_tensors(PredictReader().read(body), inputs)
    except ServingError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("tail", "text"),
    [
        (b", [1, 2]]}", "Expecting tensor size: 1 but got: 2"),
        (b", true]}", "JSON Value: true Type: True is not of expected type: float"),
        (b", 1e400]}", "JSON Parse error: Number too big to be stored in double. at offset: 8020"),
        (b"]", "JSON Parse error: Missing a comma or '}' after an object member. at offset: 8019"),
        (b'], "signature_name": 1}', "'signature_name' key must be a string value."),
    ],
)
def test_errors_of_large_bodies_are_those_of_small_ones(tail: bytes, text: str) -> None:
    body = b'{"instances": [' + b", ".join([b"1.5"] * 1601) + tail
    assert text in outcome(body, specs(x="float"))


def test_a_large_body_takes_the_short_way_and_its_parser_is_used_again() -> None:
    reader = PredictReader()
    body = orjson.dumps({"instances": IMAGES}, option=orjson.OPT_SERIALIZE_NUMPY)
    for _ in range(3):
        request = reader.read(body)
        assert isinstance(request, NumbersBody)
        tensors, row = to_tensors(request, specs(x="float"))
        assert row
        np.testing.assert_array_equal(tensors["x"], IMAGES)
    assert len(reader._numbers._spare) == 1


def test_a_body_that_is_never_converted_harms_no_later_one() -> None:
    reader = NumberReader()
    held = [reader.read(b'{"instances": [1, 2]}') for _ in range(3)]
    found = reader.read(b'{"instances": [5]}')
    assert found is not None
    tensors = found.tensors(specs(x="float"))
    assert tensors is not None
    assert tensors[0]["x"].tolist() == [5.0]
    assert all(held)
