from __future__ import annotations

import gc
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from app.engine import savedmodel
from app.engine.memory import give_back
from app.engine.session_config import session_config
from app.errors import Code, ServingError
from app.options import Options
from app.telemetry.metrics import Registry
from app.telemetry.serving_metrics import TensorFlowMetrics
from tests.engine.conftest import load
from tests.support import models
from tests.support.process import resident_bytes

CONFIG = session_config(Options())


def failure(path: Path, *tags: str) -> ServingError:
    with pytest.raises(ServingError) as raised:
        savedmodel.load(str(path), tags or ["serve"], CONFIG)
    return raised.value


@pytest.fixture
def copied(half_plus_two: Path, tmp_path: Path) -> Path:
    """A copy of a good model, to be damaged."""
    return Path(shutil.copytree(half_plus_two / "1", tmp_path / "copied"))


def test_a_tf2_export_loads(half_plus_two: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "app")
    path = half_plus_two / "1"
    model = load(path)
    assert model.run(model.signatures["serving_default"], {"x": np.array([1], np.float32)})["y"].tolist() == [
        2.5
    ]
    model.close()
    assert caplog.messages[:2] == [
        f"Reading SavedModel from: {path}",
        "Reading meta graph with tags { serve }",
    ]
    assert caplog.messages[2].startswith("SavedModel load for tags { serve }; Status: success: OK. Took ")


def test_a_tf1_export_is_initialised_from_its_assets(vocabulary_path: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(vocabulary_path, tmp_path / "elsewhere"))
    model = load(moved)
    words = np.array([b"fox", b"the", b"hound"], object)
    assert model.run(model.signatures["serving_default"], {"word": words})["number"].tolist() == [2, 0, -1]
    model.close()


def test_a_tf1_export_whose_nodes_have_a_function_as_their_op_loads(tmp_path: Path) -> None:
    model = load(models.save_function_op(tmp_path / "1"))
    y = model.run(model.signatures["serving_default"], {"x": np.array([1, 2], np.float32)})["y"]
    assert y.tolist() == [2.5, 3.0]
    model.close()


def test_a_text_saved_model_loads(copied: Path) -> None:
    binary = copied / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(binary.read_bytes())
    (copied / "saved_model.pbtxt").write_text(text_format.MessageToString(saved_model))
    binary.unlink()
    model = load(copied)
    assert model.run(model.signatures["serving_default"], {"x": np.array([1], np.float32)})["y"].tolist() == [
        2.5
    ]
    model.close()


def test_the_order_of_tags_does_not_matter_but_each_does(copied: Path) -> None:
    def change(meta_graph: saved_model_pb2.SavedModel) -> None:
        meta_graph.meta_info_def.tags.append("gpu")

    from tests.support.models import edit_meta_graph

    edit_meta_graph(copied, change)
    savedmodel.load(str(copied), ["gpu", "serve"], CONFIG).close()
    error = failure(copied, "serve")
    assert error.code is Code.NOT_FOUND
    assert error.message.startswith("Could not find meta graph def matching supplied tags: { serve }. ")
    assert failure(copied, "z", "a").message.startswith(
        "Could not find meta graph def matching supplied tags: { a z }. "
    )


@pytest.mark.parametrize("exists", [True, False])
def test_a_directory_without_a_saved_model(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "1"
    if exists:
        path.mkdir()
    assert str(failure(path)) == (
        "NOT_FOUND: Specified file path does not appear to contain a SavedModel bundle (should have a file "
        f"called `saved_model.pb`)\nSpecified file path: {path}"
    )


def test_a_file_instead_of_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "1"
    path.touch()
    assert str(failure(path)) == f"FAILED_PRECONDITION: {path}; Not a directory"


def test_a_file_that_cannot_be_read(copied: Path) -> None:
    file = copied / "saved_model.pb"
    file.unlink()
    file.mkdir()
    assert str(failure(copied)) == (
        f"PERMISSION_DENIED: {file}: Is a directory. "
        f"Make it readable for user {os.getuid()}, group {os.getgid()}."
    )


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["", "saved_model.pb"])
def test_what_this_user_may_not_read(copied: Path, name: str) -> None:
    (copied / name).chmod(0)
    error = failure(copied)
    (copied / name).chmod(0o700)
    assert error.code is Code.PERMISSION_DENIED
    assert f"Make it readable for user {os.getuid()}, group {os.getgid()}." in error.message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("saved_model.pb", b""),
        ("saved_model.pb", b"garbage"),
        ("saved_model.pb", b"\xff" * 100),
        ("saved_model.pb", b"\0" * 100),
        ("saved_model.pbtxt", b"no such field: 1"),
        ("saved_model.pbtxt", b"\xff\xfe"),
        ("saved_model.pbtxt", b""),
    ],
)
def test_a_damaged_file_is_named_with_its_size(copied: Path, name: str, content: bytes) -> None:
    (copied / "saved_model.pb").unlink()
    file = copied / name
    file.write_bytes(content)
    error = failure(copied)
    assert error.code is Code.DATA_LOSS
    assert error.message.startswith(f"Can't parse {file} ({len(content)} bytes): ")
    assert error.message.endswith("export or copy the model again.")


@given(st.floats(0, 1, exclude_max=True))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
def test_a_file_cut_short_fails_cleanly(copied: Path, half_plus_two: Path, part: float) -> None:
    content = (half_plus_two / "1" / "saved_model.pb").read_bytes()
    (copied / "saved_model.pb").write_bytes(content[: int(part * len(content))])
    assert failure(copied).code in (Code.DATA_LOSS, Code.NOT_FOUND)


@pytest.mark.parametrize("name", ["variables.index", "variables.data-00000-of-00001"])
def test_missing_variables(copied: Path, name: str) -> None:
    (copied / "variables" / name).unlink()
    assert "variables" in failure(copied).message


@pytest.mark.parametrize("name", ["variables.index", "variables.data-00000-of-00001"])
def test_empty_variables(copied: Path, name: str) -> None:
    (copied / "variables" / name).write_bytes(b"")
    assert failure(copied).code in (Code.DATA_LOSS, Code.OUT_OF_RANGE)


def test_a_missing_asset(vocabulary_path: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(vocabulary_path, tmp_path / "1"))
    (asset,) = (path / "assets").iterdir()
    asset.unlink()
    error = failure(path)
    assert asset.name in error.message


def test_an_op_that_does_not_exist(copied: Path) -> None:
    file = copied / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    saved_model.meta_graphs[0].graph_def.node[0].op = "NoSuchOp"
    file.write_bytes(saved_model.SerializeToString())
    error = failure(copied)
    assert error.code in (Code.INVALID_ARGUMENT, Code.NOT_FOUND)
    assert "NoSuchOp" in error.message


def test_signatures_do_not_keep_the_graph_in_memory(copied: Path) -> None:
    constant_bytes = 64 * 2**20
    file = copied / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    node = saved_model.meta_graphs[0].graph_def.node.add(name="large", op="Const")
    node.attr["dtype"].type = node.attr["value"].tensor.dtype = types_pb2.DT_UINT8
    node.attr["value"].tensor.tensor_shape.dim.add(size=constant_bytes)
    node.attr["value"].tensor.tensor_content = bytes(constant_bytes)
    file.write_bytes(saved_model.SerializeToString())
    del saved_model, node
    model = load(copied)
    signatures = dict(model.signature_defs)
    model.close()
    del model
    with_signatures = resident_after_collection()
    assert signatures.pop("serving_default").outputs["y"].name
    signatures.clear()
    assert with_signatures - resident_after_collection() < constant_bytes / 2


def resident_after_collection() -> int:
    """Bytes of this process, without what nobody needs."""
    gc.collect()
    give_back()
    return resident_bytes(os.getpid())


def test_loads_are_counted(half_plus_two: Path, tmp_path: Path) -> None:
    metrics = TensorFlowMetrics.make(Registry())
    good, bad = str(half_plus_two / "1"), str(tmp_path / "1")
    assert metrics.session_created.cells() == []
    with pytest.raises(ServingError):
        savedmodel.load(bad, ["serve"], CONFIG, metrics=metrics)
    for _ in range(2):
        savedmodel.load(good, ["serve"], CONFIG, metrics=metrics).close()
    assert dict(metrics.load_attempts.cells()) == {(good, "success"): 2, (bad, "fail"): 1}
    ((labels, micros),) = metrics.load_micros.cells()
    assert labels == (good,)
    assert isinstance(micros, int)
    assert micros > 0
    stages = [labels for labels, _ in metrics.load_stage_micros.cells()]
    assert stages == [(good, "init_graph"), (good, "restore_graph")]
    assert metrics.session_created.cells() == [((), 0)]
