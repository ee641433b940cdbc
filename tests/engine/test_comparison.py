from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from app.engine.comparison import difference, same_choice
from app.engine.dtypes import Array

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.complex64])
def test_errors_count_by_the_size_of_the_largest_value(dtype: type) -> None:
    value: Array = np.array([100.0, 0.0], dtype)
    error, limit = difference(value, np.array([100.0, 1.0], dtype))
    assert error == pytest.approx(0.01)
    assert 0 < limit <= 0.01
    assert difference(value, value)[0] == 0


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ([1, 2], [1, 2], True),
        ([1, 2], [1, 3], False),
        ([b"a"], [b"a"], True),
        ([b"a"], [b"b"], False),
        ([NAN, 1.0], [NAN, 1.0], True),
        ([NAN, 1.0], [1.0, NAN], False),
        ([INF], [INF], True),
        ([INF], [-INF], False),
        ([0.0], [1.0], False),
        ([1.0], [[1.0]], False),
    ],
)
def test_what_must_be_equal(left: list[object], right: list[object], equal: bool) -> None:
    kind = object if isinstance(left[0], bytes) else None
    error, _ = difference(np.array(left, kind), np.array(right, kind))
    assert error == (0 if equal else INF)


def test_types_must_be_equal() -> None:
    assert difference(np.zeros(1, np.int32), np.zeros(1, np.int64))[0] == INF


def test_the_share_of_same_choices() -> None:
    assert same_choice(np.array([[1, 2], [2, 1]]), np.array([[1, 3], [1, 2]])) == 0.5
