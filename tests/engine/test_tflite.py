from __future__ import annotations

import logging
import os
import shutil
import threading
import weakref
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from app.engine import tflite
from app.engine.tflite import TfLiteModel
from app.engine.warmup import warm_up_from_signatures
from app.errors import Code, ServingError
from tests.support import tflite_models


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Version directories by the names of their models. Not to be changed by a test."""
    directory = tmp_path_factory.mktemp("tflite")
    builders = (
        tflite_models.save_half_plus,
        tflite_models.save_two_inputs,
        tflite_models.save_pick,
        tflite_models.save_column,
        tflite_models.save_weigh,
        tflite_models.save_where,
        tflite_models.save_busy,
        tflite_models.save_rank_7,
    )
    return {
        builder.__name__.removeprefix("save_"): builder(directory / builder.__name__) for builder in builders
    }


def load(path: Path, interpreters: int = 1) -> TfLiteModel:
    return tflite.load(str(path), interpreters)


def run(model: TfLiteModel, inputs: dict[str, Any], signature: str = "serving_default") -> dict[str, Any]:
    return model.run(model.signatures[signature], inputs)


def refused(path: Path) -> ServingError:
    with pytest.raises(ServingError) as raised:
        load(path)
    return raised.value


def half(model: TfLiteModel, values: Any) -> Any:
    (answer,) = run(model, {"serving_default_x": np.array(values, np.float32)}).values()
    return answer.tolist()


@pytest.fixture
def copied(paths: dict[str, Path], tmp_path: Path) -> Path:
    """half_plus_two in a directory that a test may change."""
    path = tmp_path / "copied"
    shutil.copytree(paths["half_plus"], path)
    return path


def test_a_directory_has_a_model_or_has_none(paths: dict[str, Path], tmp_path: Path) -> None:
    assert tflite.is_in(str(paths["half_plus"]))
    assert not tflite.is_in(str(tmp_path))


def test_inputs_are_resized_as_values_need_it(paths: dict[str, Path]) -> None:
    model = load(paths["half_plus"])
    assert model.signatures["serving_default"].inputs["serving_default_x"].shape == (1,)
    assert half(model, [1]) == [2.5]
    assert half(model, [1, 2, 5]) == [2.5, 3, 4.5]
    assert half(model, [3, 4, 6]) == [3.5, 4, 5]
    assert half(model, [[1], [2]]) == [[2.5], [3]]
    assert half(model, 1) == 2.5
    assert half(model, []) == []
    assert half(model, [1]) == [2.5]


def test_an_output_without_elements_has_its_shape_and_type(paths: dict[str, Path]) -> None:
    model = load(paths["where"])
    (answer,) = run(model, {"serving_default_x": np.zeros(3, np.float32)}).values()
    assert (answer.shape, answer.dtype) == ((0, 1), np.int64)
    (answer,) = run(model, {"serving_default_x": np.array([0, 1, 1], np.float32)}).values()
    assert answer.tolist() == [[1], [2]]


def test_outputs_are_copies(paths: dict[str, Path]) -> None:
    model = load(paths["half_plus"])
    inputs = {"serving_default_x": np.array([1], np.float32)}
    (first,) = run(model, inputs).values()
    inputs["serving_default_x"][0] = 100
    run(model, inputs)
    assert first.tolist() == [2.5]


def test_inputs_may_lie_in_memory_in_any_order(paths: dict[str, Path]) -> None:
    assert half(load(paths["half_plus"]), np.arange(6, dtype=np.float32)[::-2]) == [4.5, 3.5, 2.5]


def test_strings_are_any_bytes(paths: dict[str, Path]) -> None:
    model = load(paths["pick"])
    words = np.array([b"a\0b\0", b"", b"\xff" * 1000], object)
    inputs = {"serving_default_words": words, "serving_default_indices": np.array([2, 0, 1, 1], np.int32)}
    (picked,) = run(model, inputs).values()
    assert picked.dtype == object
    assert picked.tolist() == [b"\xff" * 1000, b"a\0b\0", b"", b""]


@pytest.mark.parametrize(
    ("words", "column"),
    [
        ([b"a", b"b\0"], [[b"a"], [b"b\0"]]),
        ([[b"a", b"b"], [b"c", b""]], [[b"a"], [b"b"], [b"c"], [b""]]),
        (b"one\0", [[b"one\0"]]),
        (b"", [[b""]]),
        ([], []),
    ],
)
def test_strings_have_any_shape(paths: dict[str, Path], words: Any, column: Any) -> None:
    model = load(paths["column"])
    run(model, {"serving_default_words": np.array([b"somebody", b"else's"], object)})
    (answer,) = run(model, {"serving_default_words": np.array(words, object)}).values()
    assert answer.dtype == object
    assert answer.shape == (len(column), 1)
    assert answer.tolist() == column


def test_another_element_type_is_refused_as_for_a_saved_model(paths: dict[str, Path]) -> None:
    with pytest.raises(ServingError) as raised:
        run(load(paths["half_plus"]), {"serving_default_x": np.array([1.0])})
    expected = "INVALID_ARGUMENT: Expects arg[0] to be float but double is provided"
    assert str(raised.value) == expected


@pytest.mark.parametrize(
    ("element_type", "dtype"),
    [
        (0, np.float32),
        (1, np.float16),
        (2, np.int32),
        (3, np.uint8),
        (4, np.int64),
        (6, np.bool_),
        (7, np.int16),
        (8, np.complex64),
        (9, np.int8),
        (10, np.float64),
        (11, np.complex128),
        (12, np.uint64),
        (15, np.uint32),
        (16, np.uint16),
        (18, ml_dtypes.bfloat16),
    ],
)
def test_element_types(tmp_path: Path, element_type: int, dtype: Any) -> None:
    model = load(tflite_models.save_identity(tmp_path, element_type))
    values = np.array([1, 0, 1], dtype)
    (answer,) = run(model, {"serving_default_x": values}).values()
    assert answer.dtype == dtype
    assert answer.tolist() == values.tolist()


def test_a_shape_that_cannot_be_run_spoils_nothing(
    paths: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    model = load(paths["weigh"])
    for _ in range(2):  # the interpreter must not take the failed shapes for allocated ones
        with pytest.raises(ServingError) as raised:
            run(model, {"serving_default_x": np.ones((1, 3), np.float32)})
        assert raised.value.code is Code.INTERNAL
        assert raised.value.message in {
            "Failed to allocate tensors",
            "Failed to invoke TfLite interpreter",
        }
        assert caplog.messages[-1].startswith(f"{raised.value.message}: ")
        (answer,) = run(model, {"serving_default_x": np.ones((2, 2), np.float32)}).values()
        assert answer.tolist() == [[3.0], [3.0]]


def test_a_run_that_fails_says_so(paths: dict[str, Path]) -> None:
    model = load(paths["pick"])
    inputs = {
        "serving_default_words": np.array([b"a"], object),
        "serving_default_indices": np.array([7], np.int32),
    }
    with pytest.raises(ServingError) as raised:
        run(model, inputs)
    assert str(raised.value) == "INTERNAL: Failed to invoke TfLite interpreter"
    inputs["serving_default_indices"][0] = 0
    (answer,) = run(model, inputs).values()
    assert answer.tolist() == [b"a"]


def test_what_xnnpack_fails_on_runs_without_it(paths: dict[str, Path]) -> None:
    model = load(paths["rank_7"], 2)
    (answer,) = run(model, {"serving_default_x": np.ones((1, 3, 2), np.float32)}).values()
    assert answer.shape == (1,) * 7
    assert answer.item() == 6.0


def count(model: TfLiteModel, steps: int) -> int:
    (answer,) = run(model, {"serving_default_x": np.array(steps, np.int64)}).values()
    return int(answer)


@pytest.mark.parametrize("interpreters", [1, 2])
def test_as_many_requests_run_at_a_time_as_there_are_interpreters(
    paths: dict[str, Path], interpreters: int
) -> None:
    model = load(paths["busy"], interpreters)
    ended: list[str] = []
    take, put = model._idle.get, model._idle.put
    taken = threading.Event()

    def get(*arguments: Any, **keywords: Any) -> Any:
        interpreter = take(*arguments, **keywords)
        taken.set()
        return interpreter

    def put_back(interpreter: Any) -> None:
        ended.append(threading.current_thread().name)
        put(interpreter)

    model._idle.get, model._idle.put = get, put_back  # type: ignore[method-assign, assignment]
    thread = threading.Thread(target=count, args=(model, 5_000_000), name="long")
    thread.start()
    taken.wait()
    assert count(model, 1) == 1
    thread.join()
    short = threading.current_thread().name
    assert ended == ([short, "long"] if interpreters == 2 else ["long", short])


def test_requests_from_many_threads_do_not_mix(paths: dict[str, Path]) -> None:
    model = load(paths["half_plus"], 3)
    wrong: list[Any] = []

    def ask(number: int) -> None:
        for size in range(1, 60):
            values = [float(number)] * (size % 5 + 1)
            if half(model, values) != [number / 2 + 2] * len(values):
                wrong.append((number, size))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_closed_model_is_freed_at_once_without_a_collection(paths: dict[str, Path]) -> None:
    model = load(paths["half_plus"], 2)
    half(model, [1])
    interpreter = weakref.ref(model._idle.queue[0])
    model.close()
    assert interpreter() is None
    freed = weakref.ref(model)
    del model
    assert freed() is None


def test_it_is_warmed_up_like_any_model(paths: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "app")
    model = load(paths["two_inputs"])
    caplog.clear()
    warm_up_from_signatures(model)
    assert [message.split(" in ")[0] for message in caplog.messages] == [
        "Signature serving_default warmed up",
        "Signature triple warmed up",
    ]


def test_the_log_tells_the_file_and_the_number_of_interpreters(
    paths: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app")
    load(paths["half_plus"], 3)
    assert caplog.messages[0] == f"Reading TensorFlow Lite model from: {paths['half_plus']}/model.tflite"
    assert caplog.messages[-1].startswith("TensorFlow Lite model load; Status: success: OK. 3 interpreters.")


@pytest.mark.parametrize("part", [0, 1, 4, 8, 20, 0.3, 0.5, 0.9, 0.999])
def test_a_file_that_ends_early_is_refused(
    copied: Path, part: float, caplog: pytest.LogCaptureFixture
) -> None:
    file = copied / "model.tflite"
    content = file.read_bytes()
    file.write_bytes(content[: part if isinstance(part, int) else int(len(content) * part)])
    assert str(refused(copied)) == "INVALID_ARGUMENT: Cannot build FlatBufferModel from buffer."
    assert f"{file} ({file.stat().st_size} bytes): " in caplog.messages[-1]


@pytest.mark.parametrize("content", [b"garbage" * 100, b"\0" * 1000, b"\xff" * 1000])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.tflite").write_bytes(content)
    assert str(refused(tmp_path)) == "INVALID_ARGUMENT: Cannot build FlatBufferModel from buffer."


def test_a_model_of_another_format_version_is_refused(copied: Path) -> None:
    def change(model: Any) -> None:
        model.version = 99

    tflite_models.edit(copied, change)
    assert str(refused(copied)) == "INTERNAL: Cannot build Interpreter from buffer."


def test_an_unknown_operation_is_refused_and_named_in_the_log(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(model: Any) -> None:
        code = model.operatorCodes[0]
        code.builtinCode, code.deprecatedBuiltinCode, code.customCode = 32, 32, "Mystery"

    tflite_models.edit(copied, change)
    assert str(refused(copied)) == "INTERNAL: Failed to allocate tensors"
    assert "Mystery" in caplog.messages[-1]


def test_an_element_type_that_cannot_be_served_is_refused(copied: Path) -> None:
    def change(model: Any) -> None:
        subgraph = model.subgraphs[0]
        subgraph.tensors[subgraph.inputs[0]].type = 14  # VARIANT

    tflite_models.edit(copied, change)
    assert str(refused(copied)) == "INTERNAL: Unknown TfLite type of tensor serving_default_x:0"


def test_two_inputs_of_one_name_are_refused(paths: dict[str, Path], tmp_path: Path) -> None:
    def change(model: Any) -> None:
        subgraph = model.subgraphs[0]
        for index in subgraph.inputs:
            subgraph.tensors[index].name = "x"

    path = tmp_path / "copied"
    shutil.copytree(paths["two_inputs"], path)
    tflite_models.edit(path, change)
    assert str(refused(path)) == "ALREADY_EXISTS: Input tensor name: x has multiple indices"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").mkdir()
    assert str(refused(tmp_path)) == (
        f"PERMISSION_DENIED: {tmp_path}/model.tflite: Is a directory. "
        f"Make it readable for user {os.getuid()}, group {os.getgid()}."
    )
