"""One value to one tensor; tests/rest/test_json_decode.py has the whole requests."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine import dtypes
from app.engine.dtypes import STRING
from app.errors import ServingError
from app.rest.json_values import check, decode_base64, dense, shape_by_first

FLOAT, UINT8 = dtypes.from_number(1), dtypes.from_number(4)


def test_a_rectangle_of_numbers_is_dense() -> None:
    tensor = dense([[1, 2.5], [3, 4]], FLOAT)
    assert tensor is not None
    assert tensor.shape == (2, 2)
    assert tensor.flat.dtype == np.float32
    assert tensor.flat.tolist() == [1.0, 2.5, 3.0, 4.0]


def test_small_integers_wrap_around() -> None:
    tensor = dense([300, -1], UINT8)
    assert tensor is not None
    assert tensor.flat.tolist() == [44, 255]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1, 2], 3], "JSON Value: 3 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ([1, [2]], "Encountered list at unexpected level: 1 expected < 1"),
        ([[1, 2], [3]], "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ([True], "JSON Value: true Type: True is not of expected type: float"),
    ],
)
def test_what_is_not_dense_is_explained(value: object, message: str) -> None:
    assert dense(value, FLOAT) is None
    with pytest.raises(ServingError) as raised:
        check(value, FLOAT)
    assert raised.value.message == message


def test_base64_with_and_without_padding() -> None:
    assert decode_base64({"b64": "YQ=="}) == decode_base64({"b64": "YQ"}) == b"a"
    with pytest.raises(ServingError, match="Unable to base64 decode"):
        decode_base64({"b64": "YQ="})
    tensor = dense([{"b64": "YQ"}, "b"], STRING)
    assert tensor is not None
    assert tensor.flat.tolist() == [b"a", b"b"]


def test_the_first_elements_give_the_shape() -> None:
    assert shape_by_first([[], []]) == [2, 0]
    assert shape_by_first(1) == []


_ENCODED = st.binary(max_size=30).map(lambda raw: base64.b64encode(raw).decode())


@given(st.text("AYQzg+/-_=. \n", max_size=12) | _ENCODED)
def test_base64_of_the_common_form_is_decoded_as_by_the_rules(text: str) -> None:
    def outcome(text: str) -> bytes | str:
        try:
            return decode_base64({"b64": text})
        except ServingError as error:
            return str(error)

    assert outcome(text) == outcome(text + "    ")  # white space takes the way of all that is uncommon
