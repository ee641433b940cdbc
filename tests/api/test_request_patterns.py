"""A message that matches a pattern says what parsing it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_serving.apis import predict_pb2

from app.api.request_patterns import Pattern, Patterns, learn
from app.api.tensor_proto import to_array
from app.engine import dtypes

FLOAT, DOUBLE, INT64, STRING, HALF = 1, 2, 9, 7, 19


def request(
    shape: tuple[int, ...] = (2,), dtype: int = FLOAT, *, content: bool = False, fill: int = 1
) -> Any:
    """One input `x`, and `y`, a float of one element."""
    made = predict_pb2.PredictRequest()
    made.model_spec.name = "m"
    made.output_filter.append("out")
    numbers = np.full(shape, fill, dtypes.from_number(dtype).numpy)
    for alias in ("x", "y"):
        tensor = made.inputs[alias]
        tensor.dtype = dtype if alias == "x" else FLOAT
        for size in shape if alias == "x" else (1,):
            tensor.tensor_shape.dim.add(size=size)
    made.inputs["y"].float_val.append(fill + 0.5)
    if content:
        made.inputs["x"].tensor_content = numbers.tobytes()
    else:
        field = {FLOAT: "float_val", DOUBLE: "double_val", INT64: "int64_val", HALF: "half_val"}[dtype]
        getattr(made.inputs["x"], field).extend(
            (numbers.view(np.uint16) if dtype == HALF else numbers).ravel().tolist()
        )
    return made


def learned(made: Any) -> Pattern | None:
    return learn(made.SerializeToString(), made)


@given(
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.sampled_from([FLOAT, DOUBLE, INT64, HALF]),
    st.booleans(),
    st.binary(min_size=600, max_size=600),
)
def test_what_matches_says_what_parsing_says(
    shape: tuple[int, ...], dtype: int, content: bool, noise: bytes
) -> None:
    """Whatever bytes take the place of the numbers, and if any other byte differs it does not match."""
    message = request(shape, dtype, content=content).SerializeToString()
    pattern = learn(message, predict_pb2.PredictRequest.FromString(message))
    if pattern is None:
        assert 0 in shape or (not content and dtype in (INT64, HALF))
        return
    patterns = Patterns()
    patterns._by_length[len(message)] = (pattern,)
    changed = bytearray(message)
    for numbers in pattern.inputs:
        changed[numbers.start : numbers.end] = noise[: numbers.end - numbers.start]
    assert patterns.match(bytes(changed)) is pattern
    parsed = predict_pb2.PredictRequest.FromString(bytes(changed))
    assert pattern.spec.name == parsed.model_spec.name
    assert pattern.output_filter == tuple(parsed.output_filter)
    assert {numbers.alias for numbers in pattern.inputs} == set(parsed.inputs)
    for numbers in pattern.inputs:
        expected = to_array(parsed.inputs[numbers.alias])
        found = numbers.array(bytes(changed))
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert found.flags.aligned
        np.testing.assert_array_equal(found, expected)
    inside = {place for numbers in pattern.inputs for place in range(numbers.start, numbers.end)}
    for place in set(range(len(message))) - inside:
        other = bytearray(message)
        other[place] ^= 1
        assert patterns.match(bytes(other)) is None


@given(st.binary(max_size=40), st.integers(0, 200))
def test_bytes_put_anywhere_are_never_taken_for_something_else(extra: bytes, place: int) -> None:
    """Fields that come twice, in another order or unknown ones: learned rightly, or not at all."""
    message = request(content=True).SerializeToString()
    place = min(place, len(message))
    message = message[:place] + extra + message[place:]
    try:
        parsed = predict_pb2.PredictRequest.FromString(message)
        pattern = learn(message, parsed)
    except Exception:  # what does not parse is not learned
        return
    if pattern is not None:
        assert {numbers.alias for numbers in pattern.inputs} == set(parsed.inputs)
        for numbers in pattern.inputs:
            np.testing.assert_array_equal(numbers.array(message), to_array(parsed.inputs[numbers.alias]))


def unusual(name: str) -> Any:
    made = request()
    match name:
        case "no spec":
            made.ClearField("model_spec")
        case "fewer values":
            del made.inputs["x"].float_val[1:]
        case "more values":
            made.inputs["x"].float_val.append(3)
        case "content and values":
            made.inputs["x"].tensor_content = bytes(8)
        case "another type's field":
            made.inputs["x"].dtype = DOUBLE
        case "strings":
            made.inputs["x"].Clear()
            made.inputs["x"].dtype = STRING
            made.inputs["x"].tensor_shape.SetInParent()
            made.inputs["x"].string_val.append(b"a")
        case "unknown rank":
            made.inputs["x"].tensor_shape.unknown_rank = True
        case "no inputs":
            made.ClearField("inputs")
        case "long names":
            made.model_spec.name = "m" * 3000
    return made


@pytest.mark.parametrize(
    "name",
    [
        *("no spec", "fewer values", "more values", "content and values", "another type's field"),
        *("strings", "unknown rank", "no inputs", "long names"),
    ],
)
def test_what_is_not_learned(name: str) -> None:
    assert learned(request()) is not None
    assert learned(unusual(name)) is None


def test_an_input_that_comes_twice_is_not_learned() -> None:
    one = request()
    message = one.SerializeToString() * 2
    assert learn(message, predict_pb2.PredictRequest.FromString(message)) is None


def test_a_length_is_learned_when_it_comes_again() -> None:
    patterns, made = Patterns(), request()
    message = made.SerializeToString()
    patterns.missed(message, made)
    assert patterns.match(message) is None
    patterns.missed(message, made)
    assert patterns.match(message) is not None
    assert patterns.match(request(fill=9).SerializeToString()) is patterns.match(message)


def test_what_is_kept_is_bounded() -> None:
    patterns = Patterns()
    for size in range(1, 600):
        made = request((size,))
        for _ in range(2):
            patterns.missed(made.SerializeToString(), made)
    for name in range(100):
        made = request()
        made.model_spec.name = f"{name:03}"
        for _ in range(8):
            patterns.missed(made.SerializeToString(), made)
    assert sum(map(len, patterns._by_length.values())) <= 256 + 8
    assert max(map(len, patterns._by_length.values())) <= 8
    made = request((599,))
    assert patterns.match(made.SerializeToString()) is not None
