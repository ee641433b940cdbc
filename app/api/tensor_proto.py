"""`TensorProto` to arrays and back, for every element type TensorFlow can send."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from tensorflow.core.framework import tensor_pb2

from app.engine import dtypes
from app.engine.dtypes import STRING, Array, DType
from app.errors import invalid_argument

# The typed field that carries each type's elements (tensor.proto). Half and bfloat16 travel as bits.
_FIELDS = {
    "float": "float_val",
    "double": "double_val",
    "int32": "int_val",
    "uint8": "int_val",
    "int16": "int_val",
    "int8": "int_val",
    "uint16": "int_val",
    "string": "string_val",
    "complex64": "scomplex_val",
    "complex128": "dcomplex_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "half": "half_val",
    "bfloat16": "half_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
}
# Fields whose packed form on the wire is the array's own memory, and the type of their elements.
RAW_FIELDS: dict[str, np.dtype[Any]] = {
    "float_val": np.dtype("<f4"),
    "double_val": np.dtype("<f8"),
    "scomplex_val": np.dtype("<f4"),
    "dcomplex_val": np.dtype("<f8"),
    "bool_val": np.dtype("?"),
}
# From so many elements on it is cheaper to go through the wire form than through Python's numbers.
_RAW_FROM = 32
_COMPLEX_PART = {"complex64": np.float32, "complex128": np.float64}
_MAX_DIMENSIONS = 64  # NumPy's limit; TensorFlow's own is 254
# A few bytes may declare a huge tensor (one value is repeated to fill the shape): nothing larger than
# the largest message could carry is believed.
_MAX_BYTES = (1 << 31) - 1


def to_array(proto: Any) -> Array:
    """The value of a TensorProto.

    Elements come from `tensor_content` or from the type's field. Fewer values than elements repeat
    the last one; none at all means zeros; surplus values are dropped. All as in TensorFlow.

    Returns:
        An array of the declared shape, perhaps a read-only view of the message's bytes.

    Raises:
        ValueError: no usable type, a bad shape, or content of another size than declared.
    """
    dtype = dtypes.from_number(proto.dtype)
    if dtype.name not in _FIELDS or proto.tensor_shape.unknown_rank:
        raise ValueError(f"no type or no shape: {dtype.name}")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    count = math.prod(shape)
    if len(shape) > _MAX_DIMENSIONS or min(shape, default=0) < 0 or count * dtype.numpy.itemsize > _MAX_BYTES:
        raise ValueError(f"bad shape {shape}")
    if content := proto.tensor_content:  # each look at it is a copy
        return _from_content(content, dtype, count).reshape(shape)
    values = _from_field(proto, dtype)[:count]
    if len(values) == count:
        return values.reshape(shape)
    if len(values) == 0:
        return np.full(shape, b"", object) if dtype is STRING else np.zeros(shape, dtype.numpy)
    filled = np.empty(count, dtype.numpy)
    filled[: len(values)] = values
    filled[len(values) :] = values[-1]
    return filled.reshape(shape)


def _from_content(content: bytes, dtype: DType, count: int) -> Array:
    if dtype is STRING:
        return _strings_from_content(content, count)
    if len(content) != count * dtype.numpy.itemsize:
        raise ValueError("tensor_content has the wrong size")
    return np.frombuffer(content, dtype.numpy)


def _strings_from_content(content: bytes, count: int) -> Array:
    """TensorFlow's encoding: the varint length of every string, then their bytes."""
    lengths, position = [], 0
    for _ in range(count):
        length = shift = 0
        while True:
            byte = content[position] if position < len(content) else -1
            if byte < 0 or shift > 63:
                raise ValueError("tensor_content ends within a length")
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    strings = np.empty(count, object)
    for index, length in enumerate(lengths):
        strings[index] = content[position : position + length]
        position += length
    if position != len(content):
        raise ValueError("tensor_content has the wrong size")
    return strings


def _from_field(proto: Any, dtype: DType) -> Array:
    values = getattr(proto, _FIELDS[dtype.name])
    if dtype is STRING:
        strings = np.empty(len(values), object)
        strings[:] = values
        return strings
    if dtype.name in _COMPLEX_PART:
        parts = _numbers(_FIELDS[dtype.name], values, np.dtype(_COMPLEX_PART[dtype.name]))
        return parts[: len(parts) // 2 * 2].view(dtype.numpy)
    if _FIELDS[dtype.name] == "half_val":
        return np.fromiter(values, np.int32, len(values)).astype(np.uint16).view(dtype.numpy)
    if _FIELDS[dtype.name] == "int_val":  # narrower types wrap, as a C++ cast does
        return np.fromiter(values, np.int32, len(values)).astype(dtype.numpy)
    return _numbers(_FIELDS[dtype.name], values, dtype.numpy)


def _numbers(field: str, values: Any, numpy: np.dtype[Any]) -> Array:
    """The elements of a field whose Python numbers are those of `numpy`."""
    if len(values) < _RAW_FROM or field not in RAW_FIELDS:
        return np.fromiter(values, numpy, len(values))
    # Protobuf gives Python one number at a time, but writes them all at once.
    alone = tensor_pb2.TensorProto()
    getattr(alone, field).MergeFrom(values)
    wire = alone.SerializeToString()
    size = len(values) * numpy.itemsize
    return np.frombuffer(wire, numpy, len(values), len(wire) - size)


def from_array(array: Array, dtype: DType, *, as_content: bool = False, into: Any = None) -> Any:
    """A TensorProto of `array`.

    Args:
        array: the value; strings are object arrays of bytes.
        dtype: its element type.
        as_content: put the elements into `tensor_content` instead of the type's field.
        into: an empty TensorProto to fill, which saves a copy; None for a new one.
    """
    proto = tensor_pb2.TensorProto() if into is None else into
    proto.dtype = dtype.number
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if as_content:
        proto.tensor_content = _strings_to_content(array) if dtype is STRING else array.tobytes()
        return proto
    field = _FIELDS[dtype.name]
    flat = array.ravel()
    if dtype.name in _COMPLEX_PART:
        flat = flat.view(_COMPLEX_PART[dtype.name])
    elif field == "half_val":
        flat = flat.view(np.uint16)
    if len(flat) >= _RAW_FROM and field in RAW_FIELDS:
        raw = np.asarray(flat, RAW_FIELDS[field]).tobytes()
        proto.MergeFromString(b"".join((_PACKED_TAGS[field], varint(len(raw)), raw)))
    else:
        getattr(proto, field).extend(flat.tolist())
    return proto


def _strings_to_content(array: Array) -> bytes:
    strings = [bytes(value) for value in array.ravel()]
    return b"".join([*map(varint, map(len, strings)), *strings])


def varint(number: int) -> bytes:
    """A length as protobuf writes it."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def packed_tag(field: str) -> bytes:
    """What stands before the length of a field of TensorProto."""
    return varint(tensor_pb2.TensorProto.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


def can_send(dtype: DType) -> bool:
    """Whether a TensorProto can carry elements of `dtype`."""
    return dtype.name in _FIELDS


def field_of(dtype: DType) -> str:
    """The field of TensorProto that carries the elements of `dtype`."""
    return _FIELDS[dtype.name]


_PACKED_TAGS = {field: packed_tag(field) for field in RAW_FIELDS}


class LazyInputs(Mapping[str, Array]):
    """The inputs of a PredictRequest, decoded when they are looked at."""

    def __init__(self, protos: Mapping[str, Any]) -> None:
        """Wrap the request's map of TensorProto."""
        self._protos = protos

    def __getitem__(self, alias: str) -> Array:
        """The value of one input; ServingError INVALID_ARGUMENT if it does not decode."""
        try:
            return to_array(self._protos[alias])
        except ValueError as error:
            raise invalid_argument(f"tensor parsing error: {alias}") from error

    def __iter__(self) -> Iterator[str]:
        """The aliases sent."""
        return iter(self._protos)

    def __contains__(self, alias: object) -> bool:
        """Whether an input was sent. Indexing would add a missing key to a proto map."""
        return alias in self._protos

    def __len__(self) -> int:
        """How many were sent."""
        return len(self._protos)
