"""JSON to tensors: every message of predict requests, and both conversions agreeing."""

import base64
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine import dtypes
from app.engine.dtypes import Array
from app.engine.signature import TensorSpec
from app.errors import Code, ServingError
from app.rest.json_decode import PredictBody, read_document, to_tensors
from app.rest.json_values import check, dense

TYPES = {dtype.name: dtype for dtype in map(dtypes.from_number, range(24))}
NUMERIC = ("float", "double", "int8", "uint8", "int16", "int32", "int64", "uint32", "uint64")
PLAIN_ROWS = (
    "instances is a plain list, but expecting list of objects as multiple "
    "input tensors required as per tensorinfo_map"
)
PLAIN_COLUMNS = (
    "inputs is a plain value/list, but expecting an object as multiple "
    "input tensors required as per tensorinfo_map"
)


def specs(**types: str) -> dict[str, TensorSpec]:
    return {alias: TensorSpec(alias, f"{alias}:0", TYPES[name], None) for alias, name in types.items()}


def decode(body: str | bytes, **types: str) -> tuple[dict[str, Array], bool]:
    raw = body.encode() if isinstance(body, str) else body
    return to_tensors(read_document(raw), specs(**types))


def single(body: str | bytes, dtype: str) -> Array:
    arrays, _ = decode(body, x=dtype)
    assert list(arrays) == ["x"]
    assert arrays["x"].dtype == TYPES[dtype].numpy
    return arrays["x"]


def failure(body: str | bytes, **types: str) -> tuple[Code, str]:
    with pytest.raises(ServingError) as caught:
        decode(body, **types)
    return caught.value.code, caught.value.message


def invalid(body: str | bytes, **types: str) -> str:
    code, message = failure(body, **types)
    assert code == Code.INVALID_ARGUMENT
    return message


def test_before_the_model_is_known() -> None:
    body = read_document(b'{"signature_name": "s", "instances": [1]}')
    assert body == PredictBody("s", {"signature_name": "s", "instances": [1]})
    assert read_document(b"{}").signature_name == ""
    assert invalid("[1, {}]") == "JSON Value: [1, {}] Is not object"
    assert invalid("NaN") == "JSON Value:  Is not object"
    assert invalid('{"signature_name": null}') == (
        'JSON Value: {\n    "signature_name": null\n} not formatted correctly. '
        "'signature_name' key must be a string value."
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{}", "Missing 'inputs' or 'instances' key"),
        (
            '{"instances": [1], "inputs": 1}',
            'JSON Value: {\n    "instances": [1],\n    "inputs": 1\n} Not formatted correctly expecting only '
            "one of 'inputs' or 'instances' keys to exist ",
        ),
        (
            '{"instances": 1.0}',
            "JSON Value: {\n    \"instances\": 1.0\n} Expecting 'instances' to be an list/array",
        ),
        ('{"instances": []}', "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
    ],
)
def test_formats(body: str, message: str) -> None:
    assert invalid(body, x="float") == message


def test_a_signature_without_inputs() -> None:
    assert invalid("{}") == "Failed to get input map for signature: DEFAULT"
    assert invalid('{"signature_name": "s"}') == "Failed to get input map for signature: s"


def test_row_format() -> None:
    arrays, row = decode(
        '{"instances": [{"a": [1, 2], "b": 3}, {"b": 4, "a": [5, 6]}]}', a="float", b="int64"
    )
    assert row
    np.testing.assert_array_equal(arrays["a"], np.array([[1, 2], [5, 6]], np.float32), strict=True)
    np.testing.assert_array_equal(arrays["b"], np.array([3, 4], np.int64), strict=True)
    assert single('{"instances": [{"x": 1}, {"x": 2}]}', "float").tolist() == [1, 2]
    assert single('{"instances": [1, 2]}', "float").tolist() == [1, 2]
    assert single('{"instances": [{"b64": "YQ=="}, "b"]}', "string").tolist() == [b"a", b"b"]
    assert single('{"instances": [{"x": {"b64": "YQ=="}}]}', "string").tolist() == [b"a"]


def test_columnar_format() -> None:
    arrays, row = decode('{"inputs": {"a": [[1, 2]], "b": 3, "other": null}}', a="float", b="int64")
    assert not row
    assert arrays["a"].shape == (1, 2)
    assert arrays["b"].shape == ()
    assert single('{"inputs": 3}', "float").shape == ()
    assert single('{"inputs": {"b64": "YQ"}}', "string").item() == b"a"
    assert single('{"inputs": {"x": [1]}}', "float").tolist() == [1]


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        ("[1]", PLAIN_ROWS),
        ('[{"a": 1, "b": 2}, 3]', "Expecting object but got list at item 1 of input list"),
        ('[{"a": 1, "b": 2}, {"b64": ""}]', "Expecting object but got list at item 1 of input list"),
        (
            '[{"a": [1, 2]}]',
            "Failed to process element: 0 of 'instances' list. "
            'JSON object: {\n    "a": [1, 2]\n} keys must be equal to: a,b',
        ),
        (
            '[{"z": 1}]',
            "Failed to process element: 0 key: z of 'instances' list. "
            "Error: INVALID_ARGUMENT: JSON object: does not have named input: z",
        ),
        (
            '[{"a": 1, "b": 2}, {"a": 1, "b": 0.5}]',
            "Failed to process element: 1 key: b of 'instances' list. "
            "Error: INVALID_ARGUMENT: JSON Value: 0.5 Type: Number is not of expected type: int64",
        ),
        (
            '[{"a": [1, 2], "b": 2}, {"a": [[1, 2]], "b": 2}]',
            "Failed to process element: 1 key: a of 'instances' list. "
            "Error: INVALID_ARGUMENT: Expecting shape [2] but got: [1,2]",
        ),
    ],
)
def test_rows_of_objects(instances: str, message: str) -> None:
    assert invalid(f'{{"instances": {instances}}}', b="int64", a="float") == message


@pytest.mark.parametrize(
    ("instances", "inner"),
    [
        (
            "[[1, 2], [3]]",
            "1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1",
        ),
        (
            "[[[1, 2]], [[1], [2]]]",
            "1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [1,2] but got: [2,1]",
        ),
        ("[[1], 3]", "1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [1] but got: []"),
        (
            '["abc"]',
            "0 of 'instances' list. Error: INVALID_ARGUMENT: "
            'JSON Value: "abc" Type: String is not of expected type: float',
        ),
        (
            "[[[1], 2]]",
            "0 of 'instances' list. Error: INVALID_ARGUMENT: "
            "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
    ],
)
def test_plain_rows(instances: str, inner: str) -> None:
    assert invalid(f'{{"instances": {instances}}}', x="float") == f"Failed to process element: {inner}"


def test_an_object_among_plain_rows() -> None:
    body = '{"instances": [1, {"x": 2}]}'
    assert invalid(body, x="float") == "Expecting value/list but got object at item 1 of input list"


def test_a_base64_object_for_several_inputs_fills_one() -> None:
    arrays, _ = decode('{"instances": [{"b64": "YQ=="}]}', a="string", b="string")
    assert {alias: array.tolist() for alias, array in arrays.items()} == {"a": [b"a"]}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("[1]", PLAIN_COLUMNS),
        ('{"b64": "YQ=="}', PLAIN_COLUMNS),
        ('{"a": 1}', "Missing named input: b in 'inputs' object."),
        ('{"a": 1, "b": null}', "JSON Value: null Type: Null is not of expected type: int64"),
        ('{"a": "s"}', 'JSON Value: "s" Type: String is not of expected type: float'),
    ],
)
def test_columns_of_several_inputs(inputs: str, message: str) -> None:
    assert invalid(f'{{"inputs": {inputs}}}', a="float", b="int64") == message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[1, [2]]", "Encountered list at unexpected level: 1 expected < 1"),
        ("[[1, 2], [3]]", "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        (
            "[[1, 2], 3]",
            "JSON Value: 3 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        ("[[], [1]]", "Encountered list at unexpected size: 1 at level: 1 expected size: 0"),
        ("[true]", "JSON Value: true Type: True is not of expected type: float"),
        ("[1, false]", "JSON Value: false Type: False is not of expected type: float"),
        ("[1, NaN, null]", "JSON Value: null Type: Null is not of expected type: float"),
        ('[{"q": 1}]', 'JSON Value: {\n    "q": 1\n} Type: Object is not of expected type: float'),
        ('["1.5"]', 'JSON Value: "1.5" Type: String is not of expected type: float'),
    ],
)
def test_values(value: str, message: str) -> None:
    assert invalid(f'{{"inputs": {value}}}', x="float") == message


@pytest.mark.parametrize(
    ("dtype", "value", "shown"),
    [
        ("int32", "2147483648", "2147483648"),
        ("int8", "-2147483649", "-2147483649"),
        ("int64", "9223372036854775808", "9223372036854775808"),
        ("int64", "1.0", "1.0"),
        ("int32", "1e2", "100.0"),
        ("uint32", "-1", "-1"),
        ("uint32", "4294967296", "4294967296"),
        ("uint64", "-1", "-1"),
        ("uint64", "18446744073709551616", "18446744073709552000.0"),
        ("bool", "1", "1"),
        ("int64", "NaN", ""),
        ("string", "1", "1"),
    ],
)
def test_out_of_range(dtype: str, value: str, shown: str) -> None:
    message = invalid(f'{{"inputs": [[{value}]]}}', x=dtype)
    assert message == f"JSON Value: {shown} Type: Number is not of expected type: {dtype}"


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("uint8", "[300, -1, 255, 2147483647]", [44, 255, 255, 255]),
        ("int8", "[200, -129]", [-56, 127]),
        ("int16", "[32768, -2147483648]", [-32768, 0]),
        ("int32", "[2147483647, -2147483648, -0]", [2**31 - 1, -(2**31), 0]),
        ("int64", "[9223372036854775807, -9223372036854775808]", [2**63 - 1, -(2**63)]),
        ("uint32", "[4294967295, -0]", [2**32 - 1, 0]),
        ("uint64", "[18446744073709551615]", [2**64 - 1]),
        ("bool", "[true, false]", [True, False]),
        (
            "float",
            "[1e39, -1e300, 1, 0.5, Infinity, 18446744073709551615]",
            [math.inf, -math.inf, 1, 0.5, math.inf, 2.0**64],
        ),
        ("double", "[1e39, 1, -0.0]", [1e39, 1, -0.0]),
        ("string", '["é", "\\u0000", {"b64": "/w=="}]', ["é".encode(), b"\x00", b"\xff"]),
    ],
)
def test_accepted_values(dtype: str, value: str, expected: list[object]) -> None:
    assert single(f'{{"inputs": {value}}}', dtype).tolist() == expected


def test_strings_that_are_not_utf8() -> None:
    assert single(b'{"inputs": ["\xff", "\\udc00"]}', "string").tolist() == [b"\xff", b"\xed\xb0\x80"]


def test_types_that_json_cannot_carry() -> None:
    for dtype in ("half", "bfloat16", "uint16", "complex64", "qint8"):
        text = f"Conversion of JSON Value: 1.5 to type: {dtype}"
        assert failure('{"inputs": [1.5]}', x=dtype) == (Code.UNIMPLEMENTED, text)
        assert invalid('{"instances": [1.5]}', x=dtype) == (
            f"Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: {text}"
        )
        assert single('{"inputs": []}', dtype).shape == (0,)
    assert (
        invalid('{"inputs": {"x": {}}}', x="half")
        == "JSON Value: {} Type: Object is not of expected type: half"
    )


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("YQ==", b"a"),
        ("YQ", b"a"),
        ("YWI=", b"ab"),
        ("YWI", b"ab"),
        ("YWI.", b"ab"),
        ("", b""),
        (" Y W\\nI\\t= ", b"ab"),
        ("+/+/", b"\xfb\xff\xbf"),
        ("YQ=", None),
        ("Y", None),
        ("YWJj=", None),
        ("-_-_", None),
        ("YQ==YQ==", None),
        ("YQ==x", None),
        ("é", None),
        ("=", None),
    ],
)
def test_base64(text: str, data: bytes | None) -> None:
    body = f'{{"inputs": [{{"b64": "{text}"}}]}}'
    if data is None:
        assert invalid(body, x="string") == "Unable to base64 decode"
    else:
        assert single(body, "string").tolist() == [data]


@pytest.mark.parametrize("value", ['{"b64": 1}', '{"b64": "YQ==", "x": 1}', "{}", '{"B64": ""}'])
def test_objects_that_are_no_base64(value: str) -> None:
    message = invalid(f'{{"inputs": [{value}]}}', x="string")
    assert message.startswith("JSON Value: {")
    assert message.endswith("} not formatted correctly for base64 data")


@pytest.mark.parametrize(
    ("value", "shape"),
    [("[]", (0,)), ("[[], []]", (2, 0)), ("[[[]]]", (1, 1, 0)), ("[[[1], [2]]]", (1, 2, 1)), ("1", ())],
)
def test_shapes(value: str, shape: tuple[int, ...]) -> None:
    assert single(f'{{"inputs": {value}}}', "float").shape == shape


@pytest.mark.parametrize("depth", [65, 255, 5000])
def test_too_many_dimensions(depth: int) -> None:
    value = "[" * depth + "1" + "]" * depth
    assert invalid(f'{{"inputs": {value}}}', x="float") == "tensor parsing error: x"
    assert invalid(f'{{"instances": {value}}}', x="float") == "tensor parsing error: x"
    assert single(f'{{"inputs": {"[" * 64}1{"]" * 64}}}', "float").ndim == 64


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.integers(-3, 300)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from([{"b64": "YQ=="}, {"b64": "?"}, {}])
)
NESTED = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=6) | st.one_of(
    *(
        st.lists(leaf, min_size=2, max_size=3).flatmap(
            lambda row: st.sampled_from([row, [row, row], [[row], [row]], [row, row[1:]]])
        )
        for leaf in (st.booleans(), st.integers(0, 300), st.floats(), st.text(max_size=3))
    )
)


@given(NESTED, st.sampled_from(list(TYPES)))
def test_both_conversions_agree(value: object, name: str) -> None:
    tensor = dense(value, TYPES[name])
    if tensor is not None:
        check(value, TYPES[name])
        assert tensor.flat.size == math.prod(tensor.shape)
    else:
        with pytest.raises(ServingError):
            check(value, TYPES[name])


@given(
    st.lists(NESTED | st.dictionaries(st.sampled_from("abc"), NESTED, max_size=3), max_size=3) | NESTED,
    st.sampled_from(["instances", "inputs"]),
    st.dictionaries(st.sampled_from("abc"), st.sampled_from(list(TYPES)), min_size=1, max_size=2),
)
def test_every_request_has_an_answer(value: object, key: str, types: dict[str, str]) -> None:
    body = PredictBody("", {key: value})
    try:
        arrays, row = to_tensors(body, specs(**types))
    except ServingError as error:
        code = error.code
    else:
        code = Code.OK
        assert row == (key == "instances")
        for alias, array in arrays.items():
            assert array.dtype == TYPES[types[alias]].numpy
            if row:
                assert isinstance(value, list)
                assert array.shape[0] == len(value)
    assert code in (Code.OK, Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED)


@given(st.sampled_from(NUMERIC), st.lists(st.integers(0, 3), max_size=3), st.data())
def test_numbers_arrive_as_numpy_has_them(name: str, shape: list[int], data: st.DataObject) -> None:
    numpy = TYPES[name].numpy
    size = math.prod(shape)
    raw = data.draw(st.binary(min_size=size * numpy.itemsize, max_size=size * numpy.itemsize))
    array = np.frombuffer(raw, numpy).reshape(shape)
    decoded = single(json.dumps({"inputs": array.tolist()}), name)
    if 0 not in shape[:-1]:  # JSON does not show what is behind an empty dimension
        np.testing.assert_array_equal(decoded, array, strict=True)


@given(st.lists(st.binary(max_size=5), min_size=1, max_size=4))
def test_base64_round_trip(items: list[bytes]) -> None:
    rows: list[Any] = [{"b64": base64.b64encode(item).decode()} for item in items]
    assert single(json.dumps({"instances": rows}), "string").tolist() == items
