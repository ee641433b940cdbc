"""The JSON body of a REST predict request to tensors, by TensorFlow Serving's rules.

A document is converted twice only when something is wrong with it: first as a whole, level by level
at the speed of C; if that fails, value by value in the document's order, to find the error that
TensorFlow Serving reports first. Large bodies of numbers take a shorter way (`json_numbers`), which hands
over to this one whatever it does not like.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, TypeGuard

from app.engine.dtypes import Array
from app.engine.signature import TensorSpec
from app.errors import Code, ServingError, invalid_argument
from app.rest.debug_text import debug_text
from app.rest.json_numbers import DEEPEST, WORTH_BYTES, NumberReader, Numbers
from app.rest.json_parser import parse
from app.rest.json_values import Dense, check, dense, format_error, is_base64, shape_by_first

MAX_RANK = 64
"""NumPy's limit; TensorFlow's is 254."""

# Where a body of base64 objects, which holds no numbers, shows that it is one.
_HEAD_BYTES = 256

_PLAIN_ROWS = (
    "instances is a plain list, but expecting list of objects as multiple "
    "input tensors required as per tensorinfo_map"
)
_PLAIN_COLUMNS = (
    "inputs is a plain value/list, but expecting an object as multiple "
    "input tensors required as per tensorinfo_map"
)


class PredictBody(NamedTuple):
    """A predict request whose JSON is parsed, and whose tensors are not yet known.

    Attributes:
        signature_name: empty when absent.
        document: the top-level object.
    """

    signature_name: str
    document: dict[str, object]


@dataclass(frozen=True)
class NumbersBody:
    """The same of a large body that may hold nothing but numbers.

    Attributes:
        signature_name: empty when absent.
        numbers: what was parsed.
        text: the body.
    """

    signature_name: str
    numbers: Numbers
    text: bytes


class PredictReader:
    """Reads the bodies of predict requests. Safe for any number of threads."""

    def __init__(self, max_depth: int = 0) -> None:
        """Prepare to read bodies with at most so many levels of brackets; 0: any number."""
        self._max_depth = max_depth
        self._numbers = NumberReader()
        # simdjson stops at its own depth, which has to be the smaller one.
        self._fast = max_depth == 0 or max_depth >= DEEPEST

    def read(self, body: bytes) -> PredictBody | NumbersBody:
        """Parse as far as that is possible without the model; raises as `read_document`."""
        if self._fast and len(body) >= WORTH_BYTES and b'"b64"' not in body[:_HEAD_BYTES]:
            numbers = self._numbers.read(body)
            if numbers is not None and numbers.signature_name is not None:
                return NumbersBody(numbers.signature_name, numbers, body)
        return read_document(body, self._max_depth)


def read_document(body: bytes, max_depth: int = 0) -> PredictBody:
    """Parse a request as far as that is possible without the model.

    Args:
        body: the JSON.
        max_depth: levels of brackets in it; 0 for any number.

    Raises:
        ServingError: INVALID_ARGUMENT for wrong JSON, a top level that is not an object, or a
            `signature_name` that is not a string.
    """
    document = parse(body, max_depth)
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {debug_text(document)} Is not object")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise format_error(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return PredictBody(name, document)


def to_tensors(
    body: PredictBody | NumbersBody, inputs: Mapping[str, TensorSpec]
) -> tuple[dict[str, Array], bool]:
    """Convert a request's `instances` or `inputs` to tensors.

    Shapes come from the document alone; the signature's are not looked at.

    Args:
        body: the request.
        inputs: the signature's inputs by alias.

    Returns:
        The tensors by alias, each of its input's dtype (strings: object arrays of bytes), and whether
        the request was in row format (`instances`).

    Raises:
        ServingError: INVALID_ARGUMENT, or UNIMPLEMENTED for a columnar value of a dtype that JSON
            cannot carry, with TensorFlow Serving's message.
    """
    if isinstance(body, NumbersBody):
        found = body.numbers.tensors(inputs) if inputs else None
        if found is not None:
            return found
        body = read_document(body.text)
    document = body.document
    if not inputs:
        name = body.signature_name or "DEFAULT"
        raise invalid_argument(f"Failed to get input map for signature: {name}")
    if "instances" not in document:
        if "inputs" not in document:
            raise invalid_argument("Missing 'inputs' or 'instances' key")
        return _shaped(_columns(document["inputs"], inputs)), False
    if "inputs" in document:
        raise format_error(
            document,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        )
    rows = document["instances"]
    if not isinstance(rows, list):
        raise format_error(document, "Expecting 'instances' to be an list/array")
    if not rows:
        raise format_error(document, "No values in 'instances' array")
    return _shaped(_rows(rows, inputs)), True


def _shaped(tensors: Mapping[str, Dense]) -> dict[str, Array]:
    for alias, tensor in tensors.items():
        if len(tensor.shape) > MAX_RANK:
            raise invalid_argument(f"tensor parsing error: {alias}")
    return {alias: tensor.flat.reshape(tensor.shape) for alias, tensor in tensors.items()}


def _columns(value: object, inputs: Mapping[str, TensorSpec]) -> dict[str, Dense]:
    if not _is_named(value):
        if len(inputs) > 1:
            raise invalid_argument(_PLAIN_COLUMNS)
        value = {next(iter(inputs)): value}
    tensors: dict[str, Dense] = {}
    for alias, spec in inputs.items():
        if alias not in value:
            raise invalid_argument(f"Missing named input: {alias} in 'inputs' object.")
        tensor = dense(value[alias], spec.dtype)
        if tensor is None:
            check(value[alias], spec.dtype)
            raise _unexplained()
        tensors[alias] = tensor
    return tensors


def _rows(rows: list[object], inputs: Mapping[str, TensorSpec]) -> dict[str, Dense]:
    """Batch the elements of `instances`: each is one slice along the first dimension."""
    if not isinstance(rows[0], dict) and len(inputs) > 1:
        raise invalid_argument(_PLAIN_ROWS)
    columns: dict[str, list[object]]
    if _is_named(rows[0]):
        objects = [row for row in rows if _is_named(row) and row.keys() == inputs.keys()]
        if len(objects) < len(rows):
            _fail_rows(rows, inputs)
        columns = {alias: [row[alias] for row in objects] for alias in inputs}
    else:
        # A base64 object with several inputs arrives here, too; like the reference, fill any of them.
        columns = {next(iter(inputs)): rows}
    tensors: dict[str, Dense] = {}
    for alias, values in columns.items():
        tensor = dense(values, inputs[alias].dtype)
        if tensor is None:
            _fail_rows(rows, inputs)
        tensors[alias] = tensor
    return tensors


def _fail_rows(rows: list[object], inputs: Mapping[str, TensorSpec]) -> NoReturn:
    """Raise the first error of a row request, in the order in which the reference finds it."""
    named = _is_named(rows[0])
    names = ",".join(sorted(inputs))
    shapes: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        if _is_named(row) != named:
            problem = "Expecting object but got list" if named else "Expecting value/list but got object"
            raise invalid_argument(f"{problem} at item {position} of input list")
        slices = row if _is_named(row) else {next(iter(inputs)): row}
        for alias, value in slices.items():
            try:
                _check_slice(alias, value, inputs, shapes)
            except ServingError as error:
                key = f" key: {alias}" if named else ""
                raise invalid_argument(
                    f"Failed to process element: {position}{key} of 'instances' list. Error: {error}"
                ) from None
        if named and slices.keys() != inputs.keys():
            raise invalid_argument(
                f"Failed to process element: {position} of 'instances' list. "
                f"JSON object: {debug_text(row)} keys must be equal to: {names}"
            )
    raise _unexplained()


def _check_slice(
    alias: str, value: object, inputs: Mapping[str, TensorSpec], shapes: dict[str, list[int]]
) -> None:
    if alias not in inputs:
        raise invalid_argument(f"JSON object: does not have named input: {alias}")
    check(value, inputs[alias].dtype)
    shape = shape_by_first(value)
    expected = shapes.setdefault(alias, shape)
    if math.prod(shape) != math.prod(expected):
        raise invalid_argument(f"Expecting tensor size: {math.prod(expected)} but got: {math.prod(shape)}")
    if shape != expected:
        raise invalid_argument(f"Expecting shape {_shape_text(expected)} but got: {_shape_text(shape)}")


def _is_named(value: object) -> TypeGuard[dict[str, object]]:
    """Whether a value is an object that maps names to values, not one that stands for a string."""
    return isinstance(value, dict) and not is_base64(value)


def _unexplained() -> ServingError:
    # `dense` and `check` follow the same rules, so this is a mistake here and not in the request.
    return ServingError(Code.INTERNAL, "Cannot convert the request's JSON value")


def _shape_text(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
