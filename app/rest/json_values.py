"""One JSON value to the elements of one tensor, by TensorFlow Serving's rules.

`dense` converts a value as a whole at the speed of C and says only whether that worked; `check` walks
a value in the document's order to find the error that TensorFlow Serving reports.
"""

from __future__ import annotations

import binascii
import re
from array import array
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from typing import Any, Final, NamedTuple, TypeGuard

import numpy as np
import pybase64

from app.engine.dtypes import STRING, Array, DType
from app.errors import Code, ServingError, invalid_argument
from app.rest.debug_text import debug_text, to_bytes

_INT32 = (np.int64, -(2**31), 2**31 - 1)
INTEGERS: Final[Mapping[str, tuple[type[np.integer[Any]], int, int]]] = {
    "int8": _INT32,
    "uint8": _INT32,
    "int16": _INT32,
    "int32": _INT32,
    "int64": (np.int64, -(2**63), 2**63 - 1),
    "uint32": (np.int64, 0, 2**32 - 1),
    "uint64": (np.uint64, 0, 2**64 - 1),
}
"""What to read integers as, and their bounds. The small types take any int32 and wrap around."""

FLOATS: Final = ("float", "double")

_ASCII_SPACE = re.compile(r"[ \t\n\v\f\r]+")
_BASE64 = re.compile(r"([A-Za-z0-9+/]*)([=.]*)")


class Dense(NamedTuple):
    """The elements of a tensor in row-major order, a NumPy array of rank 1, and its shape."""

    flat: Array
    shape: tuple[int, ...]


def dense(value: object, dtype: DType) -> Dense | None:
    """Convert a value as a whole; None if it is ragged or an element does not fit the dtype.

    The elements: any numbers for float and double (float overflows to infinity); integers for the
    integer types, where those below 32 bits take any int32 and wrap around; true and false for bool;
    strings and base64 objects for string. A value without elements fits every dtype.
    """
    shape: list[int] = []
    items: list[Any] = [value]
    while (kinds := set(map(type, items))) == {list}:
        sizes = set(map(len, items))
        if len(sizes) != 1:
            return None
        shape.extend(sizes)
        items = list(chain.from_iterable(items))
    flat = _flat_array(items, kinds, dtype)
    return None if flat is None else Dense(flat, tuple(shape))


def _flat_array(items: list[Any], kinds: set[type], dtype: DType) -> Array | None:
    """A one-dimensional array of scalars, whose types are `kinds`; None if one does not fit the dtype."""
    if not items:
        return np.empty(0, dtype.numpy)
    if dtype.name in FLOATS and kinds <= {int, float}:
        # Beyond the range of float is infinite. NumPy would have to be asked not to warn, and is slower.
        return np.frombuffer(array("f" if dtype.name == "float" else "d", items), dtype.numpy)
    if dtype.name in INTEGERS and kinds == {int}:
        read_as, low, high = INTEGERS[dtype.name]
        try:
            integers = np.array(items, read_as)
        except OverflowError:
            return None
        return integers.astype(dtype.numpy) if low <= integers.min() and integers.max() <= high else None
    if dtype.name == "bool" and kinds == {bool}:
        return np.array(items, np.bool_)
    if dtype == STRING and kinds <= {str, dict}:
        try:
            strings = [to_bytes(item) if type(item) is str else decode_base64(item) for item in items]
        except ServingError:
            return None
        objects = np.empty(len(strings), object)
        objects[:] = strings
        return objects
    return None


def check(value: object, dtype: DType) -> None:
    """Raise the first error of one value; a value that `dense` converts has none.

    Raises:
        ServingError: INVALID_ARGUMENT, or UNIMPLEMENTED for a dtype that JSON cannot carry.
    """
    shape = shape_by_first(value)
    rank = len(shape)
    path: list[Iterator[object]] = [iter([value])]
    while path:
        for item in path[-1]:
            level = len(path) - 1
            if isinstance(item, list):
                if level >= rank:
                    raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {rank}")
                if len(item) != shape[level]:
                    raise invalid_argument(
                        f"Encountered list at unexpected size: {len(item)} at level: {level} "
                        f"expected size: {shape[level]}"
                    )
                path.append(iter(item))
                break
            if level != rank:
                raise format_error(
                    item,
                    f"found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {rank}",
                )
            _check_scalar(item, dtype)
        else:
            path.pop()


def _check_scalar(value: object, dtype: DType) -> None:
    name = dtype.name
    kind = type(value)
    if kind is dict:
        accepted = dtype == STRING
        if accepted:
            decode_base64(value)
    elif name in FLOATS:
        accepted = kind in (int, float)
    elif name in INTEGERS:
        _, low, high = INTEGERS[name]
        accepted = isinstance(value, int) and kind is int and low <= value <= high
    elif name == "bool":
        accepted = kind is bool
    elif dtype == STRING:
        accepted = kind is str
    else:
        raise ServingError(
            Code.UNIMPLEMENTED, f"Conversion of JSON Value: {debug_text(value)} to type: {name}"
        )
    if not accepted:
        raise format_error(value, f"Type: {type_name(value)} is not of expected type: {name}")


def shape_by_first(value: object) -> list[int]:
    """The shape that a value must have, by following its first elements down."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def type_name(value: object) -> str:
    """RapidJSON's name of a value's type; true and false are types of their own."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, dict):
        return "Object"
    if isinstance(value, list):
        return "Array"
    return "String" if isinstance(value, str) else "Number"


def is_base64(value: object) -> TypeGuard[dict[str, str]]:
    """Whether a value is an object that stands for a string: exactly `{"b64": "..."}`."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def decode_base64(value: object) -> bytes:
    """Decode `{"b64": "..."}` as Abseil does.

    White space is ignored anywhere; padding, of `=` or `.`, is complete or absent.

    Raises:
        ServingError: INVALID_ARGUMENT if it is no such object or its text is no base64.
    """
    if not is_base64(value):
        raise format_error(value, "not formatted correctly for base64 data")
    text = value["b64"]
    # The common form first: nothing but the alphabet and complete padding.
    if len(text) % 4 == 0 and not text.endswith("==="):
        with suppress(ValueError):
            return pybase64.b64decode(text, validate=True)
    match = _BASE64.fullmatch(_ASCII_SPACE.sub("", text))
    padding = -len(match[1]) % 4 if match else 3
    if not match or padding == 3 or len(match[2]) not in (0, padding):
        raise invalid_argument("Unable to base64 decode")
    return binascii.a2b_base64(match[1] + "=" * padding)


def format_error(value: object, text: str) -> ServingError:
    """The error `JSON Value: V TEXT`, INVALID_ARGUMENT."""
    return invalid_argument(f"JSON Value: {debug_text(value)} {text}")
