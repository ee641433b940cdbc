"""How error messages print a JSON value: pretty, in RapidJSON's layout, and cut off early.

TensorFlow Serving puts the offending value into its messages ("JSON Value: V ..."), written by
RapidJSON's PrettyWriter with 4-space indentation and single-line arrays. It stops before the first
token that would start at or past 256 bytes, and never closes what is open then.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

LIMIT_BYTES = 256
"""No token starts once this many bytes are written; the last token may overshoot."""

_INDENT = 4
_NOTHING = object()
_NEEDS_ESCAPE = re.compile(rb'["\\\x00-\x1f]')
_SHORT_ESCAPES = {
    b'"': b'\\"',
    b"\\": b"\\\\",
    b"\b": b"\\b",
    b"\f": b"\\f",
    b"\n": b"\\n",
    b"\r": b"\\r",
    b"\t": b"\\t",
}


def quoted(raw: bytes) -> bytes:
    r"""The JSON string literal of `raw`, escaped as RapidJSON does.

    Only the quote, the backslash and control characters are escaped (`\u00XX` with upper-case hex);
    `/`, DEL and bytes above 0x7F, valid UTF-8 or not, stay as they are.
    """
    return b'"' + _NEEDS_ESCAPE.sub(_escape, raw) + b'"'


def to_bytes(text: str) -> bytes:
    """The bytes of a string of a parsed document, also where they were not valid UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def debug_text(value: object) -> str:
    """The text of a parsed JSON value in an error message, as TensorFlow Serving prints it.

    The work is bounded by the text, not by the value: one token past 256 bytes ends it (a single
    long string is printed whole). NaN and infinities print nothing and end the text, because
    RapidJSON's writer refuses them.

    Args:
        value: what `json_parser.parse` returns: dict, list, str, int, float, bool or None.

    Returns:
        The text; bytes that are not valid UTF-8 are kept as surrogate escapes.
    """
    text = bytearray()
    for token in _tokens(value):
        if len(text) >= LIMIT_BYTES:
            break
        text += token
    return text.decode("utf-8", "surrogateescape")


def _tokens(root: object) -> Iterator[bytes]:
    """The writer's tokens one by one, each with the separator and white space before it."""
    # One iterator for each open container, so that no nesting is too deep.
    levels: list[tuple[Iterator[tuple[bytes, object]], bytes]] = [(iter([(b"", root)]), b"")]
    while levels:
        items, closing = levels[-1]
        step = next(items, None)
        if step is None:
            levels.pop()
            yield closing
            continue
        prefix, item = step
        if item is _NOTHING:
            yield prefix
        elif isinstance(item, list):
            yield prefix + b"["
            levels.append((_elements(item), b"]"))
        elif isinstance(item, dict):
            yield prefix + b"{"
            # Arrays count as a level too, although they stay on one line.
            depth = len(levels)
            closing = _new_line(depth - 1) + b"}" if item else b"}"
            levels.append((_members(item, depth), closing))
        elif isinstance(item, float) and not math.isfinite(item):
            yield prefix
            return
        else:
            yield prefix + _scalar(item)


def _elements(array: list[object]) -> Iterator[tuple[bytes, object]]:
    for position, item in enumerate(array):
        yield b", " if position else b"", item


def _members(members: dict[str, object], depth: int) -> Iterator[tuple[bytes, object]]:
    separator = b""
    for key, item in members.items():
        yield separator + _new_line(depth) + quoted(to_bytes(key)), _NOTHING
        yield b": ", item
        separator = b","


def _new_line(depth: int) -> bytes:
    return b"\n" + b" " * (_INDENT * depth)


def _scalar(value: object) -> bytes:
    if value is None:
        return b"null"
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, str):
        return quoted(to_bytes(value))
    if isinstance(value, float):
        return _double(value).encode()
    return str(value).encode()


def _double(value: float) -> str:
    """A finite double as RapidJSON writes it: shortest digits, an exponent outside 1e-6..1e21."""
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    if value == 0:
        return sign + "0.0"
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    # The value is 0.DIGITS times ten to the power of `point`.
    point = int(exponent or 0) + len(digits) - len(fraction)
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        return sign + digits[:point].ljust(point, "0") + "." + (digits[point:] or "0")
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    fraction = "." + digits[1:] if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1}"


def _escape(match: re.Match[bytes]) -> bytes:
    found = match.group()
    return _SHORT_ESCAPES.get(found) or b"\\u%04X" % found[0]
