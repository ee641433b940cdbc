from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorflow_serving.apis import prediction_log_pb2

from app.options import Options
from app.tools.check_version import version_problems
from tests.support import models


@pytest.fixture
def version(zoo: Path, tmp_path: Path) -> Path:
    """A copy of a sound version with variables, which a test may break."""
    return Path(shutil.copytree(zoo / "half" / "3", tmp_path / "1"))


def found(version: Path, options: Options = Options()) -> list[str]:  # noqa: B008 - it is frozen
    return [str(problem).replace(str(version), "V") for problem in version_problems(str(version), options)]


def test_sound_versions_have_no_problem(zoo: Path) -> None:
    for path in zoo.glob("*/[0-9]*"):
        assert found(path) == []


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (
        lambda path: (path / "variables" / "variables.index").unlink(),
        "V/variables/variables.index: the model has variables, and their index is missing.",
    ),
    "no data": (
        lambda path: (path / "variables" / "variables.data-00000-of-00001").unlink(),
        "V/variables: 0 of 1 data files of the variables are there.",
    ),
    "damaged": (
        lambda path: (path / "saved_model.pb").write_bytes(b"\xff" * 9),
        "V: Can't parse V/saved_model.pb (9 bytes)",
    ),
    "dangling": (
        lambda path: models.edit_meta_graph(
            path, lambda meta: setattr(meta.signature_def["serving_default"].inputs["x"], "name", "gone:0")
        ),
        "V/saved_model.pb: signature serving_default: input x is gone:0, which the graph lacks.",
    ),
    "no signature": (
        lambda path: models.edit_meta_graph(path, lambda meta: meta.ClearField("signature_def")),
        "V/saved_model.pb: it has no signature that can be called.",
    ),
    "asset": (
        lambda path: models.edit_meta_graph(path, lambda meta: meta.asset_file_def.add(filename="v.txt")),
        "V/assets/v.txt: the model needs this asset, and it is missing.",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_told(version: Path, name: str) -> None:
    change, text = BREAKS[name]
    change(version)
    (line,) = found(version)
    assert line.startswith(text)


def test_tags_that_are_not_there_are_told_with_those_that_are(version: Path) -> None:
    (line,) = found(version, Options(saved_model_tags="serve,gpu"))
    assert line.startswith("V/saved_model.pb: no meta graph has the tags serve,gpu. There are: serve.")


def test_warm_up_files_are_read(version: Path) -> None:
    predict, session = prediction_log_pb2.PredictionLog(), prediction_log_pb2.PredictionLog()
    predict.predict_log.SetInParent()
    session.session_run_log.SetInParent()
    file = models.write_warmup(version, predict, predict)
    assert found(version) == []
    models.write_warmup(version, predict, session)
    name = "V/assets.extra/tf_serving_warmup_requests"
    assert found(version) == [f"{name}: record 2 is a session_run_log, which is not replayed."]
    models.write_warmup(version, predict, b"\xff\xff\xff")
    assert found(version) == [f"{name}: record 2 is no PredictionLog."]
    models.write_warmup(version, *[predict] * 1001)
    assert found(version) == [f"{name}: it has 1001 records; 1000 are the most."]
    file.write_bytes(file.read_bytes()[:-3])
    assert found(version) == [f"{name}: record 1001 is cut off, or this is no TFRecord file."]
    assert found(version, Options(enable_model_warmup=False)) == []


def test_a_batching_file_of_the_version_is_read(version: Path) -> None:
    (version / "batching_params.pbtxt").write_text("max_batch_size { value: -1 }")
    assert found(version) == []
    options = Options(enable_batching=True, enable_per_model_batching_parameters=True)
    assert found(version, options) == [
        "V/batching_params.pbtxt: input_batch_size_limit must be positive; was -1"
    ]
    (version / "batching_params.pbtxt").write_text("max_batch_size {\n value: x }")
    (line,) = found(version, options)
    assert line.startswith("V/batching_params.pbtxt:2:")


def test_tensorflow_lite_is_looked_at_where_it_would_be_served(version: Path) -> None:
    (version / "model.tflite").write_bytes(b"nonsense")
    assert found(version) == []
    assert found(version, Options(prefer_tflite_model=True)) == [
        "V/model.tflite: it is no TensorFlow Lite model: its identifier is not TFL3."
    ]
