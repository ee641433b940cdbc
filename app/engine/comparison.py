"""Whether two ways to run a model give the same answers."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

from app.engine.dtypes import Array

# Relative to the tensor's largest value: small values next to large ones carry the rounding of those.
TOLERANCE = 1e-4
HALF_TOLERANCE = 1e-2


def difference(expected: Array, found: Array) -> tuple[float, float]:
    """How far `found` lies from `expected`, relative to the largest value of that, and how far it may.

    Integers and strings must be equal, NaN and infinity must stand at the same places: infinite if not.
    """
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return math.inf, 0.0
    # NumPy does not count bfloat16 among its floats.
    half = expected.dtype in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
    if expected.dtype.kind not in "fc" and not half:
        return (0.0 if np.array_equal(expected, found) else math.inf), 0.0
    limit = HALF_TOLERANCE if half else TOLERANCE
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    left, right = expected.astype(wide), found.astype(wide)
    finite = np.isfinite(left)
    if not np.array_equal(finite, np.isfinite(right)) or not np.array_equal(
        left[~finite], right[~finite], equal_nan=True
    ):
        return math.inf, limit
    if not finite.any():
        return 0.0, limit
    size = float(np.abs(left[finite]).max())
    error = float(np.abs(left[finite] - right[finite]).max())
    return (error / size if size else (0.0 if error == 0 else math.inf)), limit


def same_choice(expected: Array, found: Array) -> float:
    """The share of rows, from 0 to 1, whose largest value stands at the same place."""
    if expected.ndim < 2 or not expected.shape[-1] or expected.dtype.hasobject:
        return 1.0
    return float((expected.argmax(-1) == found.argmax(-1)).mean()) if expected.size else 1.0
