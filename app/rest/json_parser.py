"""JSON text to Python values, with the answers and errors of TensorFlow Serving's parser.

That parser is RapidJSON 1.1.0's iterative one with the flags NanAndInf and StopWhenDone. It is looser
than the JSON standard (NaN, trailing data, invalid UTF-8) and has its own error texts. Three parsers
give its answers here, the fastest first; each hands over where its answer would differ:

1. orjson, for standard JSON;
2. the `json` module, which also takes NaN, duplicate keys and trailing data at the speed of C;
3. `json_reader.Reader`, RapidJSON's state machine, for everything else and for every error.

Two liberties: decimal numbers are rounded correctly (RapidJSON may be off by a few ULP), and a zero
with a huge exponent (`0e400`) is zero instead of an error.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import orjson

from app.errors import invalid_argument
from app.rest.json_reader import Reader, integer, too_deep

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD]")


# Brackets that open and close, as what they add to the depth.
_STEPS = np.zeros(256, np.int8)
_STEPS[[*b"[{"]] = 1
_STEPS[[*b"]}"]] = -1
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
# orjson refuses more levels than it has, and so does the json module; both then leave it to `Reader`.
_PARSED_FAST = 1024


def parse(body: bytes, max_depth: int = 0) -> object:
    """Parse a request body as TensorFlow Serving does.

    Args:
        body: the JSON.
        max_depth: levels of brackets in it; 0 for any number.

    Returns:
        dict (of duplicate keys the first one counts), list, str (bytes that are not UTF-8 as surrogate
        escapes), int (-2**63 to 2**64-1), float (everything with a fraction or an exponent, and larger
        integers), bool or None.

    Raises:
        ServingError: INVALID_ARGUMENT, `JSON Parse error: ...`; offsets count bytes.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    if 0 < max_depth < _PARSED_FAST:
        _check_depth(body, max_depth)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        # The json module accepts half a surrogate pair, which must be an error or raw bytes.
        lenient = _SURROGATE_ESCAPE.search(body) is None
    else:
        if _keys_are_distinct(body, document):
            return document
        lenient = True
    if lenient:
        try:
            return _parse_leniently(body)
        except (ValueError, RecursionError):
            pass
    return Reader(body, max_depth).document()


def _check_depth(body: bytes, max_depth: int) -> None:
    """Refuse what is nested deeper, before anything is made of it."""
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return
    brackets = np.frombuffer(_TEXT.sub(b"", body), np.uint8)
    if _STEPS[brackets].cumsum(dtype=np.int32).max(initial=0) > max_depth:
        raise too_deep(max_depth)


def _keys_are_distinct(body: bytes, document: object) -> bool:
    """Whether it is certain that no object had a key twice.

    Every member has one colon, so if as many members arrived as there are colons, none was
    overwritten. Colons inside strings make this fail needlessly, which costs time only. Looks just
    where predict requests have objects, not through lists of numbers.
    """
    missing = body.count(b":")
    layer = [document]
    while layer and missing:
        below: list[object] = []
        for value in layer:
            if type(value) is dict:
                missing -= len(value)
                below.extend(value.values())
            elif type(value) is list and value and type(value[0]) is dict:
                below.extend(value)
        layer = below
    return not missing


def _parse_leniently(body: bytes) -> dict[str, object]:
    """Parse an object with the json module.

    Raises:
        ValueError: where only `Reader` knows the answer.
        RecursionError: likewise, for deep nesting.
    """
    text = body.decode()
    decoder = json.JSONDecoder(object_pairs_hook=_first_wins, parse_int=_finite_integer, parse_float=_finite)
    document, _ = decoder.raw_decode(text, len(text) - len(text.lstrip(" \n\r\t")))
    if type(document) is not dict:
        # At the top level, where no comma or bracket must follow, the json module takes `1.` for 1.
        raise ValueError
    return document


def _first_wins(members: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in members:
        unique.setdefault(key, value)
    return unique


def _finite_integer(text: str) -> int | float:
    value = integer(text)
    if math.isinf(value):
        raise ValueError
    return value


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError
    return value
