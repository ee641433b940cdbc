"""What PredictRequests of one client have in common: all their bytes but the numbers.

A client that asks again and again sends the same names, types and shapes. A `Pattern` is learned from one
such message and knows where the numbers of each input stand. A later message of the same length with the
same bytes around the numbers can mean nothing else, so it is read without being parsed, and its numbers are
used where they are. Only what is written in the one usual way, with numbers of a fixed width, is learned.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.api.models import ModelSpec, read_spec
from app.api.tensor_proto import to_array
from app.engine import dtypes
from app.engine.dtypes import Array
from app.errors import ServingError

# Fields of PredictRequest, of an entry of its map, and of TensorProto.
_SPEC, _INPUTS, _FILTER = 1, 2, 3
_KEY, _VALUE = 1, 2
_DTYPE, _SHAPE, _CONTENT, _FLOATS, _DOUBLES = 1, 2, 4, 5, 6
_TYPED = {_FLOATS: "float", _DOUBLES: "double"}
_VARINT, _BYTES = 0, 2
# Long names are rare and would be kept for nothing.
_LARGEST_FIXED = 2048
_KEPT = 256
_KEPT_OF_ONE_LENGTH = 8
_LENGTHS_COUNTED = 1024

Buffer = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Numbers:
    """Where the numbers of an input stand in a message.

    Attributes:
        alias: of the input.
        dtype: of its elements.
        shape: of the array.
        start: their first byte.
        end: behind their last byte.
    """

    alias: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    end: int

    def array(self, message: Buffer, *, aligned: bool = True) -> Array:
        """Their array: a view of the message, unless it has to be `aligned` and they do not stand so."""
        array: Array = np.ndarray(self.shape, self.dtype, message, self.start)
        return array.copy() if aligned and not array.flags.aligned else array


@dataclass(slots=True)
class Pattern:
    """What one kind of message says.

    Attributes:
        spec: which model is asked for.
        output_filter: the outputs that are asked for; all if there are none.
        inputs: the numbers of each input.
        fixed: start, end and content of what is the same in all of them.
        plan: for whoever answers such messages to keep what is worked out once.
    """

    spec: ModelSpec
    output_filter: tuple[str, ...]
    inputs: tuple[Numbers, ...]
    fixed: tuple[tuple[int, int, bytes], ...]
    plan: Any = field(default=None)

    def in_order(self, aliases: Iterable[str]) -> tuple[Numbers, ...]:
        """The inputs with these aliases."""
        by_alias = {numbers.alias: numbers for numbers in self.inputs}
        return tuple(by_alias[alias] for alias in aliases)


class Patterns:
    """The patterns learned so far. For any number of threads."""

    def __init__(self) -> None:
        """Know none."""
        self._by_length: dict[int, tuple[Pattern, ...]] = {}
        self._misses: dict[int, int] = {}
        self._lock = threading.Lock()

    def match(self, message: Buffer) -> Pattern | None:
        """The pattern of a message, if it is known."""
        for pattern in self._by_length.get(len(message), ()):
            for start, end, content in pattern.fixed:
                if message[start:end] != content:
                    break
            else:
                return pattern
        return None

    def missed(self, message: Buffer, request: Any) -> None:
        """Learn a message that matched none, if its length has come before.

        What cannot be learned costs less and less: a length is looked at when its count has doubled.

        Args:
            message: as it was received.
            request: what it says.
        """
        length = len(message)
        with self._lock:
            if length not in self._misses and len(self._misses) >= _LENGTHS_COUNTED:
                self._misses.clear()
            count = self._misses[length] = self._misses.get(length, 0) + 1
            if count & (count - 1) or count == 1:
                return
            if (pattern := learn(message, request)) is None:
                return
            self._misses[length] = 0
            if sum(map(len, self._by_length.values())) >= _KEPT:
                del self._by_length[next(iter(self._by_length))]
            kept = self._by_length.get(length, ())
            self._by_length[length] = (pattern, *kept[: _KEPT_OF_ONE_LENGTH - 1])


def learn(message: Buffer, request: Any) -> Pattern | None:
    """The pattern of a message; None if it has none, or is written in an unusual way.

    Args:
        message: as it was received.
        request: what it says.
    """
    try:
        inputs = tuple(_inputs(message, request))
        spec = read_spec(request)
    except (_UnusualError, ServingError):
        return None
    edges = [0, *itertools.chain(*((numbers.start, numbers.end) for numbers in inputs)), len(message)]
    fixed = tuple(
        (start, end, bytes(message[start:end]))
        for start, end in zip(edges[::2], edges[1::2], strict=True)
        if start < end
    )
    if not inputs or sum(len(content) for *_, content in fixed) > _LARGEST_FIXED:
        return None
    return Pattern(spec, tuple(request.output_filter), inputs, fixed)


class _UnusualError(Exception):
    """The message is written in a way that is not followed here."""


def _inputs(message: Buffer, request: Any) -> Iterator[Numbers]:
    """The numbers of each input, in the order of the message."""
    found = set()
    for number, start, end in _fields(message, 0, len(message)):
        if number in (_SPEC, _FILTER):
            continue
        if number != _INPUTS:
            raise _UnusualError
        entry = list(_fields(message, start, end))
        if [number for number, *_ in entry] != [_KEY, _VALUE]:
            raise _UnusualError
        (_, key, key_end), (_, value, value_end) = entry
        alias = bytes(message[key:key_end]).decode()
        if alias in found:
            raise _UnusualError
        found.add(alias)
        yield _numbers(message, alias, request.inputs[alias], value, value_end)
    if len(found) != len(request.inputs):
        raise _UnusualError


def _numbers(message: Buffer, alias: str, tensor: Any, start: int, end: int) -> Numbers:
    fields = list(_fields(message, start, end))
    order = [number for number, *_ in fields]
    content, first, last = fields[-1] if fields else (0, 0, 0)
    dtype = dtypes.from_number(tensor.dtype)
    usual = order in ([_DTYPE, _SHAPE, content], [_DTYPE, content]) and not dtype.numpy.hasobject
    if not usual or not (content == _CONTENT or _TYPED.get(content) == dtype.name):
        raise _UnusualError
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    # Fewer or more values than elements have a meaning too, which is not for here.
    if not 0 < last - first == math.prod(shape) * dtype.numpy.itemsize or min(shape, default=0) < 0:
        raise _UnusualError
    numbers = Numbers(alias, dtype.numpy, shape, first, last)
    try:
        parsed = to_array(tensor)
    except ValueError:
        raise _UnusualError from None
    if parsed.shape != shape or parsed.dtype != dtype.numpy:
        raise _UnusualError
    return numbers


def _fields(message: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields between two places: number, and where the content begins and ends."""
    while start < end:
        tag, start = _varint(message, start, end)
        if tag & 7 == _BYTES:
            length, start = _varint(message, start, end)
            stop = start + length
        elif tag & 7 == _VARINT:
            _, stop = _varint(message, start, end)
        else:
            raise _UnusualError
        if stop > end:
            raise _UnusualError
        yield tag >> 3, start, stop
        start = stop


def _varint(message: Buffer, start: int, end: int) -> tuple[int, int]:
    number = shift = 0
    for position in range(start, min(end, start + 5)):
        byte = message[position]
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, position + 1
    raise _UnusualError
