"""Large predict bodies of numbers to tensors, without a Python object for each number.

simdjson parses the body and hands out all numbers of a nested list as one buffer, but does not say how
they were nested. So the nesting is taken from first elements, and the text must have exactly the
brackets, commas and names that follow from it: a body without its digits and white space is compared
with what that has to leave. Whoever differs, and whatever is not plain numbers under plain names, is
nobody's error here: `json_decode` then takes its careful path, which alone knows the rules' error texts.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import orjson
import simdjson

from app.engine.dtypes import Array
from app.engine.signature import TensorSpec
from app.rest.json_values import FLOATS, INTEGERS

WORTH_BYTES = 2048
"""Below this length orjson's lists cost less."""

DEEPEST = 1024
"""Levels of brackets beyond which simdjson reads nothing."""

_LARGEST_RANK = 16
# Rows as objects take some microseconds each; for shorter ones orjson is faster.
_ROW_BYTES = 512
# A parser keeps memory of ten times its largest body: spare ones are few, and none is kept that grew large.
_SPARE_PARSERS = 2
_LARGEST_KEPT = 8 * 1024 * 1024
# What numbers and white space are made of. The same letters vanish from names, on both sides.
_NUMERIC = b"0123456789.eE+- \n\r\t"
_Shape = tuple[int, ...]
Found = tuple[dict[str, Array], bool]
"""Tensors by alias, and whether the body was in row format."""

_Read = Callable[[], Found | None]
_Kind = Literal["d", "i", "u"]
_WIDE: Final[Mapping[_Kind, type[np.generic]]] = {"d": np.float64, "i": np.int64, "u": np.uint64}


class NumberReader:
    """Reads bodies, with parsers that it keeps. Safe for any number of threads."""

    def __init__(self) -> None:
        """Without parsers; they are made as they are needed."""
        self._spare: deque[simdjson.Parser] = deque(maxlen=_SPARE_PARSERS)
        # Nobody else can compute meanwhile anyway: in turn, threads find memory that is in the caches.
        self._lock = threading.Lock()

    def read(self, body: bytes) -> Numbers | None:
        """Parse `body`; None if it is not one object in standard JSON with names that occur once."""
        with self._lock:
            parser = self._spare.pop() if self._spare else simdjson.Parser()
            try:
                members = _members(parser.parse(body))
            except (ValueError, RuntimeError):  # wrong JSON, numbers too large, nesting too deep
                return None
        return None if members is None else Numbers(body, members, partial(self._finish, parser, len(body)))

    def _finish(self, parser: simdjson.Parser, size: int, read: _Read) -> Found | None:
        with self._lock:
            found = read()
            if size <= _LARGEST_KEPT:
                self._spare.append(parser)
        return found


class Numbers:
    """A parsed body, for one thread.

    Attributes:
        signature_name: as in the body; empty when absent, None if it is not a string.
    """

    def __init__(self, body: bytes, members: dict[str, Any], finish: Callable[[_Read], Found | None]) -> None:
        """Made by `NumberReader.read`; `finish` calls what has to be the last to use the parser."""
        self._body = body
        self._members = members
        self._finish = finish
        name = members.get("signature_name", "")
        self.signature_name: str | None = name if isinstance(name, str) else None

    def tensors(self, inputs: Mapping[str, TensorSpec]) -> Found | None:
        """The tensors by alias and whether the body was in row format; to be called once.

        Args:
            inputs: the signature's inputs by alias.

        Returns:
            What `json_decode.to_tensors` makes of the same body; None where only that can tell.
        """
        return self._finish(lambda: self._last(inputs))

    def _last(self, inputs: Mapping[str, TensorSpec]) -> Found | None:
        try:
            return self._tensors(inputs)
        except (TypeError, ValueError, OverflowError):  # not numbers, or not of this kind
            return None
        finally:
            self._members = {}  # a parser whose values are held parses nothing

    def _tensors(self, inputs: Mapping[str, TensorSpec]) -> Found | None:
        row = "instances" in self._members
        if row == ("inputs" in self._members):
            return None
        value = self._members["instances" if row else "inputs"]
        if row and isinstance(value, simdjson.Array) and len(value) and isinstance(value[0], simdjson.Object):
            small_rows = len(self._body) < len(value) * _ROW_BYTES
            tensors = None if small_rows else _rows(value, inputs)
        elif row and not isinstance(value, simdjson.Array):
            return None
        else:
            tensors = _columns(value, inputs)
        if tensors is None:
            return None
        claimed = _skeleton(self._members, {})
        text = self._body.translate(None, _NUMERIC)
        # Without escapes the quotes on both sides pair up, and what stands outside of them is structure.
        return (tensors, row) if b"\\" not in claimed and text == claimed else None


def _members(value: Any) -> dict[str, Any] | None:
    """The members of an object in their order; None for anything else, and if a name occurs twice."""
    if not isinstance(value, simdjson.Object):
        return None
    members = {key: value[key] for key in value}  # items() would make lists of lists
    return members if len(members) == len(value) else None


def _columns(value: Any, inputs: Mapping[str, TensorSpec]) -> dict[str, Array] | None:
    if not isinstance(value, simdjson.Object):
        if len(inputs) != 1:
            return None
        ((alias, spec),) = inputs.items()
        tensor = _tensor([value], spec)
        return None if tensor is None else {alias: tensor[0]}
    members = _members(value)
    if members is None or members.keys() != inputs.keys():
        return None
    tensors: dict[str, Array] = {}
    for alias, spec in inputs.items():
        tensor = _tensor([members[alias]], spec)
        if tensor is None:
            return None
        tensors[alias] = tensor[0]
    return tensors


def _rows(rows: Any, inputs: Mapping[str, TensorSpec]) -> dict[str, Array] | None:
    columns: dict[str, list[Any]] = {alias: [] for alias in inputs}
    for row in rows:
        members = _members(row)
        if members is None or members.keys() != inputs.keys():
            return None
        for alias, value in members.items():
            columns[alias].append(value)
    tensors: dict[str, Array] = {}
    for alias, values in columns.items():
        tensor = _tensor(values, inputs[alias])
        if tensor is None:
            return None
        tensors[alias] = tensor
    return tensors


def _tensor(values: Sequence[Any], spec: TensorSpec) -> Array | None:
    """Lists or numbers of one shape, stacked."""
    name = spec.dtype.name
    if name not in FLOATS and name not in INTEGERS:
        return None
    kind: _Kind = "d" if name in FLOATS else "u" if name == "uint64" else "i"
    shape = _shape(values[0])
    size = math.prod(shape)
    if not size or len(shape) > _LARGEST_RANK:
        return None
    tensor = np.empty((len(values), size), spec.dtype.numpy)
    with np.errstate(over="ignore"):  # beyond the range of float is infinite
        for line, value in zip(tensor, values, strict=True):
            if _shape(value) != shape:
                return None
            flat = _flat(value, kind)
            if flat is None or flat.size != size:
                return None
            if name in INTEGERS:
                _, low, high = INTEGERS[name]
                if flat.min() < low or flat.max() > high:
                    return None
            line[:] = flat  # narrows as astype does: small integers wrap around
    return tensor.reshape(len(values), *shape)


def _flat(value: Any, kind: _Kind) -> Array | None:
    if isinstance(value, simdjson.Array):
        return np.frombuffer(value.as_buffer(of_type=kind), _WIDE[kind])
    if type(value) is int or (type(value) is float and kind == "d"):
        return np.array([value], _WIDE[kind])
    return None


def _shape(value: Any) -> _Shape:
    """The shape by first elements; zero dimensions end it."""
    shape: list[int] = []
    while isinstance(value, simdjson.Array):
        shape.append(len(value))
        if not shape[-1]:
            break
        value = value[0]
    return tuple(shape)


def _skeleton(value: Any, lists: dict[_Shape, bytes]) -> bytes:
    """What `value` leaves in the text if each of its lists is a dense one of numbers.

    Args:
        value: of the parsed body.
        lists: what dense lists of a shape leave, filled here.
    """
    if isinstance(value, simdjson.Array):
        if len(value) and isinstance(value[0], simdjson.Object):
            return _joined(b"[", (_skeleton(item, lists) for item in value), b"]")
        shape = _shape(value)
        if shape not in lists:
            lists[shape] = _dense_skeleton(shape)
        return lists[shape]
    if isinstance(value, simdjson.Object):
        value = {key: value[key] for key in value}
    if isinstance(value, dict):
        names = (orjson.dumps(key).translate(None, _NUMERIC) for key in value)
        items = (_skeleton(item, lists) for item in value.values())
        return _joined(b"{", (name + b":" + item for name, item in zip(names, items, strict=True)), b"}")
    return orjson.dumps(value).translate(None, _NUMERIC)


def _dense_skeleton(shape: _Shape) -> bytes:
    text = b""
    for size in reversed(shape):
        text = _joined(b"[", [text] * size, b"]")
    return text


def _joined(opening: bytes, items: Iterable[bytes], closing: bytes) -> bytes:
    return opening + b",".join(items) + closing
