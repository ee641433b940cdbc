"""Inputs made up from what a signature declares, to compare and measure a model at load."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np

from app.engine import dtypes
from app.engine.dtypes import Array
from app.engine.signature import Signature, TensorSpec

_SEED = 20240521
# What open dimensions other than the first may be: the first that the model takes is used.
_OPEN_SIZES = (1, 32, 224)
# One grey pixel, for models that decode pictures.
_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
_TEXTS = (b"", _PNG, b"0")  # an empty string is also a valid tf.Example


def candidates(signature: Signature, batch: int) -> Iterator[dict[str, Array]]:
    """Values for the inputs of `signature`, always the same; the caller finds out which the model takes.

    Args:
        signature: gives types and shapes. Nothing is made for inputs of unknown rank or of types that
            NumPy does not have.
        batch: the size of each first dimension that is open.

    Yields:
        A value for every input, by alias: numbers from 0 to 1, integers 0 and 1.
    """
    specs = signature.inputs.values()
    if any(
        spec.shape is None or (spec.dtype.numpy.hasobject and spec.dtype != dtypes.STRING) for spec in specs
    ):
        return
    texts = _TEXTS if any(spec.dtype == dtypes.STRING for spec in specs) else _TEXTS[:1]
    inner = [size for spec in specs for size in (spec.shape or ())[1:]]
    sizes = _OPEN_SIZES if any(size < 0 for size in inner) else _OPEN_SIZES[:1]
    for size in sizes:
        for text in texts:
            random = np.random.default_rng(_SEED)
            yield {spec.alias: _value(spec, batch, size, text, random) for spec in specs}


def _can_be_made(spec: TensorSpec) -> bool:
    return spec.shape is not None and (spec.dtype == dtypes.STRING or not spec.dtype.numpy.hasobject)


def _value(spec: TensorSpec, batch: int, size: int, text: bytes, random: np.random.Generator) -> Array:
    shape = tuple(
        declared if declared >= 0 else size if axis else batch
        for axis, declared in enumerate(spec.shape or ())
    )
    if spec.dtype == dtypes.STRING:
        return np.full(shape, text, dtype=object)
    if spec.dtype.numpy.kind in "iub":
        return random.integers(0, 2, shape).astype(spec.dtype.numpy)
    return random.random(shape).astype(spec.dtype.numpy)
