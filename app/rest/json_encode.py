"""Tensors to the JSON body of a REST predict response, and errors to theirs.

Numbers are the shortest text that reads back as the same value of their type, without white space:
TensorFlow Serving's values in fewer bytes. Only the error body copies its layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import orjson
import pybase64

from app.api.model_list import ListedModel
from app.engine import dtypes
from app.engine.dtypes import STRING, Array
from app.errors import Code, invalid_argument
from app.lifecycle.states import VersionStatus
from app.rest.debug_text import quoted, to_bytes

_WRITABLE = frozenset(
    ("float", "double", "int32", "int16", "int8", "uint8", "int64", "bool", "string", "uint32", "uint64")
)


def encode_predict(outputs: Mapping[str, Array], row: bool) -> bytes:
    """The body of a predict response, as TensorFlow Serving shapes it.

    Args:
        outputs: the output tensors by alias, of any rank and memory layout; strings are object arrays
            of bytes. Their order is kept.
        row: whether the request was in row format. If so, the first dimension of every output is the
            batch and the answer is a list of rows under `predictions`; if not, it is whole tensors
            under `outputs`. With several outputs the rows or tensors stand in objects, by alias.

    Returns:
        JSON in UTF-8, except that strings which are not UTF-8 stay as they are (those of an alias that
        ends in `_bytes` are base64 objects). NaN and infinities are `NaN`, `Infinity`, `-Infinity`.

    Raises:
        ServingError: INVALID_ARGUMENT for no outputs, for a dtype that TensorFlow Serving does not
            write (such as half), or in row format for scalars or differing batch sizes.
    """
    if not outputs:
        raise invalid_argument("Cannot convert empty tensor map to JSON")
    if row:
        _check_batch(outputs)
    if len(outputs) == 1:
        ((alias, array),) = outputs.items()
        value = _value(alias, array)
    elif row:
        columns = [[_key(alias) + item for item in _rows(alias, array)] for alias, array in outputs.items()]
        value = _list(b"{" + b",".join(members) + b"}" for members in zip(*columns, strict=True))
    else:
        value = (
            b"{" + b",".join(_key(alias) + _value(alias, array) for alias, array in outputs.items()) + b"}"
        )
    return b'{"%s":%s}' % (b"predictions" if row else b"outputs", value)


def encode_classify(result: Any) -> bytes:
    """The body of a classify response.

    Args:
        result: a ClassificationResult.

    Returns:
        `{"results": [[[label, score], ...], ...]}`; a label that is missing is empty, a score 0.0.
    """
    rows = (
        _list(b"[%s,%s]" % (quoted(to_bytes(entry.label)), _number(entry.score)) for entry in row.classes)
        for row in result.classifications
    )
    return b'{"results":%s}' % _list(rows)


def encode_regress(result: Any) -> bytes:
    """The body of a regress response, `{"results": [value, ...]}`, of a RegressionResult."""
    return b'{"results":%s}' % _list(_number(entry.value) for entry in result.regressions)


def encode_error(message: str) -> bytes:
    """The body of every REST error, in TensorFlow Serving's layout; the message is not shortened."""
    return b'{\n    "error": %s\n}' % quoted(to_bytes(message))


def encode_models(models: Iterable[ListedModel]) -> bytes:
    """The list of models; each version as in TensorFlow Serving's answer about one model."""
    listed = [
        {
            "name": model.name,
            "labels": {label: str(version) for label, version in model.labels},
            "model_version_status": [_status(status) for status in model.versions],
        }
        for model in models
    ]
    return orjson.dumps({"models": listed})


def _status(status: VersionStatus) -> dict[str, Any]:
    code, message = (Code.OK, "") if status.error is None else (status.error.code, status.error.message)
    return {
        "version": str(status.version),
        "state": status.state.name,
        "status": {"error_code": code.name, "error_message": message},
    }


def _number(value: float) -> bytes:
    return _numbers(np.array(value, np.float32))


def _check_batch(outputs: Mapping[str, Array]) -> None:
    batch: int | None = None
    for alias, array in outputs.items():
        if not array.ndim:
            raise invalid_argument(f"Tensor name: {alias} has no shape information ")
        size = array.shape[0]
        if batch is not None and size != batch:
            raise invalid_argument(
                f"Tensor name: {alias} has inconsistent batch size: {size} expecting: {batch}"
            )
        batch = size


def _key(alias: str) -> bytes:
    return quoted(to_bytes(alias)) + b":"


def _value(alias: str, array: Array) -> bytes:
    """A whole tensor as JSON."""
    if _is_numeric(array):
        return _numbers(array)
    items = _leaves(alias, array)
    return _list(_nested(items, array.shape)) if array.ndim else items[0]


def _rows(alias: str, array: Array) -> list[bytes]:
    """A tensor of rank 1 or more as JSON, one text for each index of the first dimension."""
    if not _is_numeric(array):
        return _nested(_leaves(alias, array), array.shape)
    # Two rows of rank n meet as n closing and n opening brackets, and nothing else looks like that.
    rank = array.ndim - 1
    opening, closing = b"[" * rank, b"]" * rank
    text = _numbers(array)[1 + rank : -1 - rank]
    return [opening + item + closing for item in text.split(closing + b"," + opening)]


def _is_numeric(array: Array) -> bool:
    """Whether to write the tensor as numbers or booleans; if not, it is of strings or empty.

    Raises:
        ServingError: INVALID_ARGUMENT for elements that are neither.
    """
    if not array.size:  # TensorFlow Serving looks at the type only when it writes an element.
        return False
    dtype = dtypes.of_array(array)
    if dtype.name not in _WRITABLE:
        raise invalid_argument(f"Failed to write JSON value for tensor type: {dtype.name}")
    return dtype is not STRING


def _numbers(array: Array) -> bytes:
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    text = orjson.dumps(array if array.ndim else array[()], option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" not in text:
        return text
    # orjson writes null for each value that is not finite: put the tokens there, in the same order.
    odd = array[~np.isfinite(array)]
    tokens = np.where(np.isnan(odd), b"NaN", np.where(odd > 0, b"Infinity", b"-Infinity")).tolist()
    return b"".join(chain.from_iterable(zip(text.split(b"null"), [*tokens, b""], strict=True)))


def _leaves(alias: str, array: Array) -> list[bytes]:
    """The JSON of each string, in row-major order."""
    strings = [to_bytes(item) if isinstance(item, str) else bytes(item) for item in array.ravel().tolist()]
    if alias.endswith("_bytes"):
        return [b'{"b64":"%s"}' % pybase64.b64encode(item) for item in strings]
    return [quoted(item) for item in strings]


def _nested(items: list[bytes], shape: tuple[int, ...]) -> list[bytes]:
    """Put elements in row-major order into lists, for all dimensions but the first."""
    for axis in range(len(shape) - 1, 0, -1):
        size, count = shape[axis], math.prod(shape[:axis])
        items = [_list(items[size * i : size * (i + 1)]) for i in range(count)]
    return items


def _list(items: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"
