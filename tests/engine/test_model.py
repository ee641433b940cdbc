from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from app.engine.model import Model
from app.errors import Code, ServingError
from tests.engine.conftest import edited, load
from tests.support import models

# Some tenths of a second of counting.
LONG_RUN = 200_000


def run(model: Model, inputs: dict[str, Any], *outputs: str, name: str = "serving_default") -> dict[str, Any]:
    return model.run(model.signatures[name], inputs, outputs)


SAMPLES: dict[str, list[Any]] = {
    "bool": [True, False, True],
    "string": [b"", b"\xff\x00\x00", b"text"],
    "complex64": [1 + 2j, -0.5j, 0],
    "complex128": [1 + 2j, -0.5j, 0],
}


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3, 1), (0,), (0, 5)])
@pytest.mark.parametrize("name", models.DTYPES)
def test_every_type_and_shape_goes_through(identity: Model, name: str, shape: tuple[int, ...]) -> None:
    numpy = identity.signatures[f"id_{name}"].inputs["x"].dtype.numpy
    value = np.array(SAMPLES.get(name, [0, 1, 100]), numpy)[: int(np.prod(shape))].reshape(shape)
    found = run(identity, {"x": value}, name=f"id_{name}")["y"]
    np.testing.assert_array_equal(found, value, strict=True)


@pytest.mark.parametrize("name", models.DTYPES)
def test_a_scalar_comes_back_as_an_array(identity: Model, name: str) -> None:
    numpy = identity.signatures[f"id_{name}"].inputs["x"].dtype.numpy
    value = np.array(SAMPLES.get(name, [1])[0], numpy)
    found = run(identity, {"x": value}, name=f"id_{name}")["y"]
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, value, strict=True)


def test_arrays_need_not_be_contiguous(half: Model) -> None:
    value = np.arange(10, dtype=np.float32)[::-3]
    np.testing.assert_array_equal(run(half, {"x": value})["y"], value / 2 + 2)


def test_a_read_only_array_is_taken(half: Model) -> None:
    value = np.frombuffer(np.array([1, 2], np.float32).tobytes(), np.float32)
    assert run(half, {"x": value})["y"].tolist() == [2.5, 3.0]


def test_another_shape_than_declared_is_taken_if_the_graph_can_compute_it(half: Model) -> None:
    assert run(half, {"x": np.array([[1, 2], [3, 4]], np.float32)})["y"].tolist() == [[2.5, 3.0], [3.5, 4.0]]


def test_all_outputs_or_those_asked_for(two_inputs: Model) -> None:
    inputs = {"a": np.array([[1, 2]], np.float32), "b": np.array([5], np.int64)}
    assert {alias: value.tolist() for alias, value in run(two_inputs, inputs).items()} == {
        "sum": [[6.0, 7.0]],
        "twice": [10],
    }
    assert list(run(two_inputs, inputs, "twice")) == ["twice"]
    assert list(run(two_inputs, inputs, "twice", "sum")) == ["twice", "sum"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"a": np.array([[1, 2]], np.int32), "b": np.array([5], np.int64)}, "arg[0] to be float but int32"),
        (
            {"a": np.array([[1, 2]], np.float64), "b": np.array([5], np.int64)},
            "arg[0] to be float but double",
        ),
        (
            {"a": np.array([[1, 2]], np.float32), "b": np.array([5], np.float16)},
            "arg[1] to be int64 but half",
        ),
        (
            {"a": np.array([[1, 2]], np.float32), "b": np.array([b"5"], object)},
            "arg[1] to be int64 but string",
        ),
        ({"a": np.array([1], np.int8), "b": np.array([5], np.uint8)}, "arg[0] to be float but int8"),
    ],
)
def test_another_type_than_declared(two_inputs: Model, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ServingError) as raised:
        run(two_inputs, inputs)
    assert str(raised.value) == f"INVALID_ARGUMENT: Expects {message} is provided"


def test_what_tensorflow_refuses_comes_with_its_code_and_text(two_inputs: Model) -> None:
    with pytest.raises(ServingError) as raised:
        run(two_inputs, {"a": np.zeros((2, 2), np.float32), "b": np.array([1, 2, 3], np.int64)})
    assert raised.value.code is Code.INVALID_ARGUMENT
    assert raised.value.message.startswith("Incompatible shapes: [3,1] vs. [2,2]\n\t [[{{")


def test_runs_from_many_threads_do_not_mix(two_inputs: Model) -> None:
    def work(number: int) -> bool:
        inputs = {"a": np.full((1, 2), number, np.float32), "b": np.array([number], np.int64)}
        aliases = [("sum",), ("twice",), ("sum", "twice"), ()][number % 4]
        found = run(two_inputs, inputs, *aliases)
        return set(found) == set(aliases or ("sum", "twice")) and all(
            (value == 2 * number).all() for value in found.values()
        )

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(400)))


def test_a_first_call_from_many_threads_at_once(half_plus_two: Path) -> None:
    model = load(half_plus_two / "1")
    barrier = threading.Barrier(8)

    def work(number: int) -> float:
        barrier.wait(30)
        return float(run(model, {"x": np.array([number], np.float32)})["y"][0])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [number / 2 + 2 for number in range(8)]
    model.close()


def test_a_run_does_not_hold_up_other_threads(busy_model: Model, half: Model) -> None:
    started = threading.Event()

    def long_run() -> int:
        started.set()
        return int(run(busy_model, {"x": np.array(LONG_RUN, np.int64)})["y"])

    run(busy_model, {"x": np.array(1, np.int64)})
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(long_run)
        assert started.wait(30)
        for _ in range(10):
            run(half, {"x": np.array([1], np.float32)})
        assert not running.done()
        assert running.result(60) == LONG_RUN


def test_two_aliases_may_name_one_output_tensor(half_plus_two: Path, tmp_path: Path) -> None:
    def change(meta_graph: Any) -> None:
        outputs = meta_graph.signature_def["serving_default"].outputs
        outputs["again"].CopyFrom(outputs["y"])

    model = edited(half_plus_two / "1", change, tmp_path)
    value = np.array([1], np.float32)
    assert {alias: y.tolist() for alias, y in run(model, {"x": value}).items()} == {
        "y": [2.5],
        "again": [2.5],
    }
    assert list(run(model, {"x": value}, "again")) == ["again"]
    model.close()


@pytest.mark.parametrize(("alias_of_a", "alias_of_b"), [("p", "q"), ("q", "p")])
def test_arguments_are_numbered_by_tensor_name(tmp_path: Path, alias_of_a: str, alias_of_b: str) -> None:
    def change(meta_graph: Any) -> None:
        inputs = meta_graph.signature_def["serving_default"].inputs
        for tensor, alias in (("a", alias_of_a), ("b", alias_of_b)):
            inputs[alias].CopyFrom(inputs[tensor])
            del inputs[tensor]

    source = models.save_two_inputs(tmp_path / "source" / "1")
    model = edited(source, change, tmp_path)
    good = {alias_of_a: np.zeros((1, 2), np.float32), alias_of_b: np.zeros(1, np.int64)}
    for alias, message in (
        (alias_of_a, r"arg\[0\] to be float but bool"),
        (alias_of_b, r"arg\[1\] to be int64 but bool"),
    ):
        with pytest.raises(ServingError, match=message):
            run(model, {**good, alias: np.zeros(1, np.bool_)})
    model.close()


def test_signatures_are_those_of_the_file_with_their_defaults(half_plus_two: Path, tmp_path: Path) -> None:
    def change(meta_graph: Any) -> None:
        signature = meta_graph.signature_def["serving_default"]
        signature.defaults["x"].CopyFrom(tf.make_tensor_proto([1.0, 2.0]))

    model = edited(half_plus_two / "1", change, tmp_path)
    assert set(model.signatures) == set(model.signature_defs) == {"serving_default", "__saved_model_init_op"}
    signature = model.signatures["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    assert (signature.inputs["x"].tensor, signature.inputs["x"].shape) == ("serving_default_x:0", (-1,))
    np.testing.assert_array_equal(signature.defaults["x"], np.array([1, 2], np.float32), strict=True)
    model.close()


def test_a_signature_that_yields_no_tensor_cannot_be_run(half: Model) -> None:
    with pytest.raises(ServingError):
        run(half, {}, name="__saved_model_init_op")


def test_a_signature_that_names_no_tensor_of_the_graph_is_an_error_of_its_runs(
    half_plus_two: Path, tmp_path: Path
) -> None:
    def change(meta_graph: Any) -> None:
        signature = meta_graph.signature_def["broken"]
        signature.CopyFrom(meta_graph.signature_def["serving_default"])
        signature.outputs["y"].name = "nowhere:0"

    model = edited(half_plus_two / "1", change, tmp_path)
    with pytest.raises(ServingError, match="nowhere"):
        run(model, {"x": np.array([1], np.float32)}, name="broken")
    assert run(model, {"x": np.array([1], np.float32)})["y"].tolist() == [2.5]
    model.close()
