from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from app.engine import dtypes
from tests.support.models import DTYPES


@pytest.mark.parametrize("number", range(24))
def test_numbers_and_names_are_those_of_the_enum(number: int) -> None:
    dtype = dtypes.from_number(number)
    assert dtype.number == number
    assert dtype.enum_name == types_pb2.DataType.Name(number)


@pytest.mark.parametrize("name", DTYPES)
def test_numpy_types_are_those_of_tensorflow(name: str) -> None:
    reference = tf.as_dtype(name)
    dtype = dtypes.from_number(reference.as_datatype_enum)
    assert dtype.numpy == np.dtype(reference.as_numpy_dtype)
    assert dtypes.of_array(np.zeros(2, dtype.numpy)) == dtype


@pytest.mark.parametrize("number", [24, 31, 101, -1, 10**6])
def test_a_number_that_is_not_known_is_invalid(number: int) -> None:
    assert dtypes.from_number(number).name == "invalid"


@pytest.mark.parametrize("array", [np.array([b"x"], object), np.array([b"x"]), np.array(["x"])])
def test_objects_bytes_and_str_are_strings(array: dtypes.Array) -> None:
    assert dtypes.of_array(array) == dtypes.STRING


@pytest.mark.parametrize("numpy", [np.datetime64, ml_dtypes.int4])
def test_an_array_that_tensorflow_has_no_number_for_is_an_error(numpy: Any) -> None:
    with pytest.raises(KeyError):
        dtypes.of_array(np.zeros(1, numpy))
