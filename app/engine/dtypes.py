"""The element types of tensors: TensorFlow's number and name of each, and NumPy's type for it.

Needs no TensorFlow: the numbers are those of `tensorflow/core/framework/types.proto`, which are
fixed on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""A tensor's value on the host. Strings are arrays of dtype object that hold `bytes`."""


@dataclass(frozen=True)
class DType:
    """One element type.

    Attributes:
        number: its value in the `DataType` enum.
        name: TensorFlow's short name, as error texts print it (`float`, `half`, `int32`).
        numpy: NumPy's type; `object` for strings and for types that NumPy does not have.
    """

    number: int
    name: str
    numpy: np.dtype[Any]

    @property
    def enum_name(self) -> str:
        """The name in the `DataType` enum, such as `DT_FLOAT`."""
        return f"DT_{self.name.upper()}"


def _dtype(number: int, name: str, numpy: Any) -> DType:
    return DType(number, name, np.dtype(numpy))


STRING = _dtype(7, "string", object)

_ALL = (
    _dtype(0, "invalid", object),
    _dtype(1, "float", np.float32),
    _dtype(2, "double", np.float64),
    _dtype(3, "int32", np.int32),
    _dtype(4, "uint8", np.uint8),
    _dtype(5, "int16", np.int16),
    _dtype(6, "int8", np.int8),
    STRING,
    _dtype(8, "complex64", np.complex64),
    _dtype(9, "int64", np.int64),
    _dtype(10, "bool", np.bool_),
    _dtype(11, "qint8", object),
    _dtype(12, "quint8", object),
    _dtype(13, "qint32", object),
    _dtype(14, "bfloat16", ml_dtypes.bfloat16),
    _dtype(15, "qint16", object),
    _dtype(16, "quint16", object),
    _dtype(17, "uint16", np.uint16),
    _dtype(18, "complex128", np.complex128),
    _dtype(19, "half", np.float16),
    _dtype(20, "resource", object),
    _dtype(21, "variant", object),
    _dtype(22, "uint32", np.uint32),
    _dtype(23, "uint64", np.uint64),
)
_BY_NUMBER = {dtype.number: dtype for dtype in _ALL}
_BY_NUMPY = {dtype.numpy: dtype for dtype in _ALL if not dtype.numpy.hasobject}


def from_number(number: int) -> DType:
    """The type with this number in the `DataType` enum; one that is not known is `invalid`."""
    return _BY_NUMBER.get(number, _BY_NUMBER[0])


def of_array(array: Array) -> DType:
    """The type of `array`'s elements; object, bytes and str arrays are `string`.

    Raises:
        KeyError: for a NumPy type that TensorFlow has no number for.
    """
    if array.dtype.kind in "OSU":
        return STRING
    return _BY_NUMPY[array.dtype]
