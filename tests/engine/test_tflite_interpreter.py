from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.engine import dtypes
from app.engine.tflite_interpreter import PRIMARY, Interpreter, Tensor
from app.errors import Code, ServingError
from tests.support import tflite_models

FLOAT, INT64 = (dtypes.of_array(np.empty(0, name)) for name in ("float32", "int64"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of `save_two_inputs`."""
    path: Path = tflite_models.save_two_inputs(tmp_path_factory.mktemp("two") / "1")
    return (path / "model.tflite").read_bytes()


@pytest.fixture
def interpreter(two: bytes) -> Interpreter:
    return Interpreter(two, xnnpack=True)


def by_name(tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in tensors}


def test_the_tensors_of_the_primary_subgraph_are_told(interpreter: Interpreter) -> None:
    inputs, outputs = by_name(interpreter.inputs), by_name(interpreter.outputs)
    a, b = inputs["serving_default_a:0"], inputs["serving_default_b:0"]
    assert (a.dtype, a.shape, b.dtype, b.shape) == (FLOAT, (1, 2), INT64, (1,))
    assert outputs.keys() == {"PartitionedCall:0", "PartitionedCall:1"}
    assert {tensor.subgraph for tensor in (*interpreter.inputs, *interpreter.outputs)} == {PRIMARY}


def test_own_signatures_name_tensors_of_their_subgraphs(interpreter: Interpreter) -> None:
    signatures = interpreter.signatures()
    assert signatures.keys() == {"serving_default", "triple"}
    inputs, outputs = signatures["triple"]
    assert inputs.keys() == {"a"}
    assert outputs.keys() == {"t"}
    assert inputs["a"].subgraph == outputs["t"].subgraph != PRIMARY


def test_a_run_resizes_inputs_and_gives_copies_in_the_order_that_was_asked_for(
    interpreter: Interpreter,
) -> None:
    inputs, outputs = interpreter.signatures()["serving_default"]
    interpreter.allocate()
    for rows in (1, 3, 3, 2):
        feeds: dict[Tensor, dtypes.Array] = {
            inputs["a"]: np.ones((rows, 2), np.float32),
            inputs["b"]: np.arange(rows, dtype=np.int64),
        }
        twice, total = interpreter.run(feeds, [outputs["twice"], outputs["sum"]])
        assert twice.tolist() == [2 * row for row in range(rows)]
        assert total.tolist() == [[1.0 + row] * 2 for row in range(rows)]


def test_a_run_that_fails_does_not_spoil_the_next(interpreter: Interpreter) -> None:
    inputs, outputs = interpreter.signatures()["serving_default"]
    a = np.ones((3, 2), np.float32)
    for b, fails in ((np.zeros(2, np.int64), True), (np.zeros(3, np.int64), False)):
        if fails:
            with pytest.raises(ServingError, match="INTERNAL: Failed to allocate tensors"):
                interpreter.run({inputs["a"]: a, inputs["b"]: b}, [outputs["sum"]])
        else:
            (total,) = interpreter.run({inputs["a"]: a, inputs["b"]: b}, [outputs["sum"]])
            assert total.tolist() == a.tolist()


def test_a_tensor_that_is_not_there(interpreter: Interpreter) -> None:
    for subgraph, index in ((PRIMARY, 1000), (1000, 0)):
        with pytest.raises(ValueError, match=f"no tensor {index} in subgraph {subgraph}"):
            interpreter.tensor(subgraph, index)


def test_what_is_no_flatbuffer_is_refused() -> None:
    with pytest.raises(ServingError) as raised:
        Interpreter(b"no model at all", xnnpack=False)
    assert raised.value.code is Code.INVALID_ARGUMENT
    assert raised.value.message == "Cannot build FlatBufferModel from buffer."


@pytest.mark.parametrize(
    ("dtype", "blank"), [(FLOAT, [[0.0, 0.0]]), (dtypes.STRING, [[b"", b""]])], ids=["float", "string"]
)
def test_the_blank_of_a_tensor(dtype: dtypes.DType, blank: object) -> None:
    assert Tensor(PRIMARY, 0, "x", dtype, (1, 2)).blank().tolist() == blank
