from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.protobuf import meta_graph_pb2

from app.engine import tflite, tflite_signatures
from app.engine.tflite import TfLiteModel
from app.errors import Code, ServingError
from tests.support import tflite_models
from tests.support.tflite_models import serialised_map, signature_def, store_metadata, store_signatures

FLOAT, INT64 = 1, 9


def load(path: Path) -> TfLiteModel:
    return tflite.load(str(path), 1)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` with a few bytes changed, or cut off."""
    result = bytearray(content[: draw(st.integers(len(content) // 2, len(content)))])
    for at in draw(st.lists(st.integers(0, len(result) - 1), max_size=4)):
        result[at] = draw(st.integers(0, 255))
    return bytes(result)


def refused(path: Path) -> str:
    with pytest.raises(ServingError) as raised:
        load(path)
    return str(raised.value)


@pytest.fixture
def half(tmp_path: Path) -> Path:
    return tflite_models.save_half_plus(tmp_path / "half")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return tflite_models.save_two_inputs(tmp_path / "two")


def half_signature(x: str = "serving_default_x:0", y: str = "PartitionedCall:0") -> bytes:
    return signature_def({"x": (x, FLOAT, [-1])}, {"y": (y, FLOAT, [-1])})


def test_the_generated_signature_is_tensorflow_servings(half: Path) -> None:
    (signature,) = load(half).signature_defs.values()
    expected = signature_def(
        {"serving_default_x": ("serving_default_x:0", FLOAT, [1])},
        {"PartitionedCall": ("PartitionedCall:0", FLOAT, [1])},
    )
    assert signature == meta_graph_pb2.SignatureDef.FromString(expected)


def test_of_names_that_differ_after_the_colon_the_last_is_taken(two: Path) -> None:
    model = load(two)
    signature = model.signatures["serving_default"]
    assert set(signature.inputs) == {"serving_default_a", "serving_default_b"}
    assert {alias: spec.tensor for alias, spec in signature.outputs.items()} == {
        "PartitionedCall": "PartitionedCall:1"
    }
    inputs: dict[str, Any] = {
        "serving_default_a": np.ones((2, 2), np.float32),
        "serving_default_b": np.array([3, 4], np.int64),
    }
    (answer,) = model.run(signature, inputs).values()
    assert answer.tolist() == [6, 8]


def test_own_signatures_are_offered_beside_it(two: Path) -> None:
    model = load(two)
    assert list(model.signatures) == ["serving_default", "triple"]
    assert model.signatures["triple"].method_name == "tensorflow/serving/predict"
    for rows in (1, 3, 3, 1):
        answer = model.run(model.signatures["triple"], {"a": np.ones((rows, 2), np.float32)})
        assert answer["t"].tolist() == [[3.0, 3.0]] * rows


def test_one_run_may_span_subgraphs(two: Path) -> None:
    model = load(two)
    default, triple = model.signatures["serving_default"], model.signatures["triple"]
    feeds = tuple(sorted([*default.inputs.values(), *triple.inputs.values()], key=lambda spec: spec.tensor))
    values: dict[str, Any] = {
        "serving_default_a:0": np.ones((1, 2), np.float32),
        "serving_default_b:0": np.array([5], np.int64),
        triple.inputs["a"].tensor: np.ones((1, 2), np.float32),
    }
    fetches = ("PartitionedCall:1", triple.outputs["t"].tensor, "PartitionedCall:0")
    answers = model.run_tensors(feeds, values, fetches)
    assert [answers[name].tolist() for name in fetches] == [[10], [[3.0, 3.0]], [[6.0, 6.0]]]


def test_an_own_signature_of_the_primary_subgraph_has_its_tensors_names(tmp_path: Path) -> None:
    model = load(tflite_models.save_half_plus(tmp_path / "half", signature="halve"))
    assert list(model.signatures) == ["serving_default", "halve"]
    assert model.signatures["halve"].inputs["x"].tensor == "halve_x:0"
    assert model.run(model.signatures["halve"], {"x": np.ones(1, np.float32)})["y"].tolist() == [2.5]


def test_stored_signatures_win(half: Path) -> None:
    store_signatures(half, {"serving_default": half_signature(), "other": half_signature()})
    model = load(half)
    assert set(model.signatures) == {"serving_default", "other"}
    assert model.signature_defs["other"].inputs["x"].tensor_shape.dim[0].size == -1
    for signature in model.signatures.values():
        assert model.run(signature, {"x": np.array([1, 2], np.float32)})["y"].tolist() == [2.5, 3.0]


def test_a_stored_signature_may_name_tensors_as_tensorflow_does(half: Path) -> None:
    def change(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            tensor.name = bytes(tensor.name).partition(b":")[0]

    tflite_models.edit(half, change)
    store_signatures(half, {"serving_default": half_signature()})
    model = load(half)
    assert model.signature_defs["serving_default"].inputs["x"].name == "serving_default_x"
    answer = model.run(model.signatures["serving_default"], {"x": np.array([1], np.float32)})
    assert answer["y"].tolist() == [2.5]


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (
            half_signature(x="nope:0"),
            "Unknown tensor 'nope:0'.\n\tSignature input x references an unknown tensor",
        ),
        (half_signature(y="no"), "Unknown tensor 'no'.\n\tSignature output y references an unknown tensor"),
    ],
)
def test_a_stored_signature_of_unknown_tensors_is_refused(half: Path, signature: bytes, message: str) -> None:
    store_signatures(half, {"serving_default": signature})
    assert refused(half) == f"INTERNAL: {message}"


def test_a_stored_signature_that_does_not_parse_is_refused(half: Path) -> None:
    store_signatures(half, {"serving_default": b"\xff\xff"})
    assert refused(half) == (
        "INVALID_ARGUMENT: Invalid SignatureDefs found in TfLite model: "
        "Cannot parse signature def found in flatbuffer."
    )


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_damaged_signatures_are_refused(half: Path, content: bytes) -> None:
    store_metadata(half, content)
    assert refused(half).startswith(
        "INVALID_ARGUMENT: Invalid SignatureDefs found in TfLite model: Error reading signature def map: "
    )


def test_signatures_in_a_buffer_that_is_not_there_are_refused(half: Path) -> None:
    store_signatures(half, {"serving_default": half_signature()})

    def change(model: Any) -> None:
        model.metadata[-1].buffer = 1000

    tflite_models.edit(half, change)
    assert refused(half).endswith("Error reading signature def map: it is empty")


MAP = serialised_map({"serving_default": half_signature(), "other": b""})


def test_a_map_is_read() -> None:
    assert set(tflite_signatures.parse_map(MAP)) == {"serving_default", "other"}


@given(st.one_of(st.binary(), damaged(MAP)))
def test_whatever_a_map_holds_it_is_read_or_refused(data: bytes) -> None:
    try:
        signatures = tflite_signatures.parse_map(data)
    except ServingError as error:
        refusal = error
    else:
        assert all(isinstance(signature, meta_graph_pb2.SignatureDef) for signature in signatures.values())
        return
    assert refusal.code is Code.INVALID_ARGUMENT


def test_an_input_that_a_signature_leaves_out_is_zero(two: Path) -> None:
    both = signature_def(
        {"a": ("serving_default_a:0", FLOAT, [1, 2]), "b": ("serving_default_b:0", INT64, [1])},
        {"sum": ("PartitionedCall:0", FLOAT, [1, 2])},
    )
    one = signature_def(
        {"a": ("serving_default_a:0", FLOAT, [1, 2])}, {"sum": ("PartitionedCall:0", FLOAT, [1, 2])}
    )
    store_signatures(two, {"both": both, "one": one})
    model = load(two)
    a = np.ones((3, 2), np.float32)
    model.run(model.signatures["both"], {"a": a, "b": np.array([100, 200, 300], np.int64)})
    assert model.run(model.signatures["one"], {"a": a})["sum"].tolist() == [[1.0, 1.0]] * 3


def test_an_own_signature_that_cannot_be_served_is_left_out(
    two: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(model: Any) -> None:
        subgraph = model.subgraphs[1]
        subgraph.tensors[subgraph.inputs[0]].type = 14  # VARIANT

    tflite_models.edit(two, change)
    assert list(load(two).signatures) == ["serving_default"]
    assert any(message.startswith("Signature triple ") for message in caplog.messages)


@pytest.mark.parametrize(("subgraph", "tensor"), [(127, 0), (2**32 - 1, 0), (1, 3), (1, 2**32 - 1)])
def test_an_own_signature_of_a_tensor_that_is_not_there_is_left_out(
    two: Path, subgraph: int, tensor: int
) -> None:
    def change(model: Any) -> None:
        model.signatureDefs[1].subgraphIndex = subgraph
        model.signatureDefs[1].inputs[0].tensorIndex = tensor

    tflite_models.edit(two, change)
    assert list(load(two).signatures) == ["serving_default"]


def test_own_signatures_with_unreadable_names_are_left_out(
    two: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(model: Any) -> None:
        model.signatureDefs[1].inputs[0].name = b"\xff"

    tflite_models.edit(two, change)
    assert list(load(two).signatures) == ["serving_default"]
    assert any(message.startswith("Signatures of the flatbuffer are") for message in caplog.messages)
