"""RapidJSON 1.1.0's iterative parser, with its error texts and offsets.

TensorFlow Serving runs it with the flags NanAndInf and StopWhenDone: NaN and infinities are numbers,
data after the first value is ignored, UTF-8 is not checked and nesting is not limited. `json_parser`
comes here only for what faster parsers cannot answer.
"""

from __future__ import annotations

import math
import re

from app.errors import ServingError, invalid_argument

_BOM = b"\xef\xbb\xbf"
_WHITE_SPACE = re.compile(rb"[ \n\r\t]*")
_WHOLE = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_FRACTION = re.compile(rb"(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_PLAIN_TEXT = re.compile(rb'[^"\\\x00-\x1f]*')
_HEX4 = re.compile(rb"[0-9A-Fa-f]{4}")
_WORDS = {ord("t"): (b"true", True), ord("f"): (b"false", False), ord("n"): (b"null", None)}
_ESCAPES = {letter: bytes([code]) for letter, code in zip(b'"/\\bfnrt', b'"/\\\b\f\n\r\t', strict=True)}

_DONE = ""
_EMPTY = "The document is empty."
_NO_VALUE = "Invalid value."
_NO_NAME = "Missing a name for object member."
_NO_COLON = "Missing a colon after a name of object member."
_NO_COMMA_OBJECT = "Missing a comma or '}' after an object member."
_NO_COMMA_ARRAY = "Missing a comma or ']' after an array element."
_TOO_BIG = "Number too big to be stored in double."
_NO_FRACTION = "Miss fraction part in number."
_NO_EXPONENT = "Miss exponent in number."
_NO_QUOTE = "Missing a closing quotation mark in string."
_BAD_ESCAPE = "Invalid escape character in string."
_BAD_HEX = "Incorrect hex digit after \\u escape in string."
_BAD_SURROGATE = "The surrogate pair in string is invalid."


def too_deep(max_depth: int) -> ServingError:
    """The error for more levels of brackets than are taken."""
    return invalid_argument(
        f"JSON Parse error: more than {max_depth} levels of brackets (--rest_api_max_json_depth)."
    )


class Reader:
    """RapidJSON's iterative parser over one body, which a NUL byte ends.

    It never recurses and is linear in the length of the body.
    """

    def __init__(self, body: bytes, max_depth: int = 0) -> None:
        """Stand before the first byte of `body`, which may have so many levels; 0 for any number."""
        self._body = body
        self._max_depth = max_depth
        self._at = 0
        # The parser's state is named by what is wrong if the next token does not fit it.
        self._state = _EMPTY
        self._first = False  # Right after an opening bracket; only there may the closing one follow.
        self._stack: list[list[object] | dict[str, object]] = []
        self._key = ""
        self._root: object = None

    def document(self) -> object:
        """The first value of the body; what follows it is not looked at.

        Raises:
            ServingError: INVALID_ARGUMENT, `JSON Parse error: ...`.
        """
        for byte in _BOM:  # RapidJSON skips half a byte order mark too.
            self._at += self._peek() == byte
        while self._state != _DONE:
            self._skip_white_space()
            token = self._peek()
            if self._state in (_EMPTY, _NO_VALUE):
                self._value(token)
            elif self._state == _NO_NAME:
                self._name(token)
            elif self._state == _NO_COLON:
                self._colon(token)
            else:
                self._after_value(token)
        return self._root

    def _value(self, token: int) -> None:
        if token == ord("["):
            self._open([], _NO_VALUE)
        elif token == ord("{"):
            self._open({}, _NO_NAME)
        elif token == ord("]") and self._first:
            self._close()
        elif token in b"]},:\0":
            raise self._error(self._state)
        else:
            self._put(self._scalar(token))
            self._value_ended()

    def _name(self, token: int) -> None:
        if token == ord('"'):
            self._key = self._string()
            self._state, self._first = _NO_COLON, False
        elif token == ord("}") and self._first:
            self._close()
        else:
            raise self._error(_NO_NAME)

    def _colon(self, token: int) -> None:
        if token != ord(":"):
            raise self._error(_NO_COLON)
        self._at += 1
        self._state = _NO_VALUE

    def _after_value(self, token: int) -> None:
        in_array = self._state == _NO_COMMA_ARRAY
        if token == ord(","):
            self._at += 1
            self._state = _NO_VALUE if in_array else _NO_NAME
        elif token == ord("]" if in_array else "}"):
            self._close()
        else:
            raise self._error(self._state)

    def _open(self, container: list[object] | dict[str, object], state: str) -> None:
        if 0 < self._max_depth <= len(self._stack):
            raise too_deep(self._max_depth)
        self._put(container)
        self._stack.append(container)
        self._at += 1
        self._state, self._first = state, True

    def _close(self) -> None:
        self._stack.pop()
        self._at += 1
        self._value_ended()

    def _put(self, value: object) -> None:
        if not self._stack:
            self._root = value
        elif isinstance(parent := self._stack[-1], list):
            parent.append(value)
        else:
            parent.setdefault(self._key, value)  # of duplicate keys the first one counts

    def _value_ended(self) -> None:
        self._first = False
        if not self._stack:
            self._state = _DONE
        elif isinstance(self._stack[-1], list):
            self._state = _NO_COMMA_ARRAY
        else:
            self._state = _NO_COMMA_OBJECT

    def _peek(self) -> int:
        return self._body[self._at] if self._at < len(self._body) else 0

    def _skip_white_space(self) -> None:
        match = _WHITE_SPACE.match(self._body, self._at)
        assert match
        self._at = match.end()

    def _error(self, text: str, at: int | None = None) -> ServingError:
        return invalid_argument(f"JSON Parse error: {text} at offset: {self._at if at is None else at}")

    def _scalar(self, token: int) -> object:
        if token == ord('"'):
            return self._string()
        if token in _WORDS:
            word, value = _WORDS[token]
            self._expect(word)
            return value
        return self._number()

    def _expect(self, word: bytes) -> None:
        for byte in word:
            if self._peek() != byte:
                raise self._error(_NO_VALUE)
            self._at += 1

    def _number(self) -> int | float:
        start = self._at
        if match := _WHOLE.match(self._body, start):
            whole = match[0].decode()
            self._at = match.end()
            number = integer(whole)
        else:
            number = self._non_finite()
            whole = "-0" if self._body[start] == ord("-") else "0"
        if self._peek() not in b".eE":
            if match and math.isinf(number):
                raise self._error(_TOO_BIG, start)
            return number
        # After NaN and the infinities too: RapidJSON then takes `NaN.5` for 0.5.
        text = whole + self._fraction()
        number = float(text)
        if math.isinf(number) and _is_too_big(text):
            raise self._error(_TOO_BIG, start)
        return number

    def _fraction(self) -> str:
        match = _FRACTION.match(self._body, self._at)
        assert match
        self._at = match.end()
        if not match[2]:
            if not match[1] and self._peek() == ord("."):
                raise self._error(_NO_FRACTION, self._at + 1)
            if self._peek() in b"eE":
                self._at += 1
                self._at += self._peek() in b"+-"
                raise self._error(_NO_EXPONENT)
        return match[0].decode()

    def _non_finite(self) -> float:
        negative = self._peek() == ord("-")
        self._at += negative
        # A beginning of NaN is skipped before Inf is tried, as RapidJSON does: `NaInf` is a number.
        for read, byte in enumerate(b"NaN"):
            if self._peek() != byte:
                break
            self._at += 1
            if read == 2:
                return math.nan
        self._expect(b"Inf")
        if self._peek() == ord("i"):
            self._expect(b"inity")
        return -math.inf if negative else math.inf

    def _string(self) -> str:
        self._at += 1
        pieces: list[bytes] = []
        while True:
            match = _PLAIN_TEXT.match(self._body, self._at)
            assert match
            pieces.append(match[0])
            self._at = match.end()
            byte = self._peek()
            if byte == ord('"'):
                self._at += 1
                return b"".join(pieces).decode("utf-8", "surrogateescape")
            if byte == ord("\\"):
                pieces.append(self._escape())
            else:
                raise self._error(_BAD_ESCAPE if byte else _NO_QUOTE)

    def _escape(self) -> bytes:
        start = self._at
        self._at += 1
        letter = self._peek()
        self._at += 1
        if letter in _ESCAPES:
            return _ESCAPES[letter]
        if letter != ord("u"):
            raise self._error(_BAD_ESCAPE, start)
        code = self._hex4(start)
        if 0xD800 <= code <= 0xDBFF:
            if self._body[self._at : self._at + 2] != b"\\u":
                raise self._error(_BAD_SURROGATE, start)
            self._at += 2
            low = self._hex4(start)
            if not 0xDC00 <= low <= 0xDFFF:
                raise self._error(_BAD_SURROGATE, start)
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        # A low half alone is no error; it is encoded like any other code point.
        return chr(code).encode("utf-8", "surrogatepass")

    def _hex4(self, start: int) -> int:
        match = _HEX4.match(self._body, self._at)
        if not match:
            raise self._error(_BAD_HEX, start)
        self._at = match.end()
        return int(match[0], 16)


def integer(text: str) -> int | float:
    """The value of an integer literal: int within int64 and uint64, else float, possibly infinite."""
    if len(text) <= 20:  # also keeps clear of int()'s limit on digits
        value = int(text)
        if -(2**63) <= value < 2**64:
            return value
    return float(text)


def _is_too_big(text: str) -> bool:
    """Whether RapidJSON refuses a number that overflows; some near the limit become infinite instead.

    It compares the exponent with 308 plus the decimal places that it has kept, which are those up to
    the 17th significant digit.
    """
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    if not exponent or math.isinf(float(whole)):
        return True
    significant = len(whole) - 1
    nonzero = whole != "0"
    kept = 0
    for digit in fraction:
        if significant >= 17:
            break
        kept += 1
        nonzero = nonzero or digit != "0"
        significant += nonzero
    return float(exponent) > 308 + kept
