from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from app.engine import savedmodel
from app.engine.external_ops import external_ops
from app.engine.session_config import session_config
from app.errors import Code, ServingError
from app.options import Options
from tests.support import models


def meta_graph(path: Path) -> Any:
    from tensorflow.core.protobuf import saved_model_pb2

    content = (path / "saved_model.pb").read_bytes()
    return saved_model_pb2.SavedModel.FromString(content).meta_graphs[0]


@pytest.fixture(scope="module")
def reaching(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save_reaching(tmp_path_factory.mktemp("reaching") / "1")


def test_plain_models_have_none(half_plus_two: Path, tmp_path: Path) -> None:
    """Although all of them have the ops that save and restore variables."""
    one = meta_graph(half_plus_two / "1")
    ops = {node.op for function in one.graph_def.library.function for node in function.node_def}
    assert {"SaveV2", "RestoreV2", "MergeV2Checkpoints"} <= ops
    assert external_ops(one) == {}
    assert external_ops(meta_graph(models.save_counting(tmp_path / "counting"))) == {}


def test_vocabularies_among_the_models_own_files_are_fine(tmp_path: Path) -> None:
    for path in (
        models.save_vocabulary(tmp_path / "tf1", ["a", "b"]),
        models.save_vocabulary_function(tmp_path / "tf2", ["a", "b"]),
    ):
        found = meta_graph(path)
        assert external_ops(found) == {}, path
        found.ClearField("asset_file_def")
        found.collection_def["saved_model_assets"].Clear()
        assert external_ops(found) == {"reads files": ["InitializeTableFromTextFileV2"]}, path


def test_ops_are_found_in_loops_branches_and_datasets(reaching: Path) -> None:
    assert external_ops(meta_graph(reaching)) == {
        "reads files": ["ReadFile", "TFRecordDataset"],
        "writes files": ["WriteFile"],
        "writes to the log or a file": ["PrintV2"],
    }


def test_python_and_the_network_are_found(tmp_path: Path) -> None:
    tf = models.tensorflow()
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])  # type: ignore[untyped-decorator]
    def remote(x: Any) -> Any:
        y = tf.py_function(lambda v: v, [x], tf.float32)
        z = tf.numpy_function(lambda v: v, [x], tf.float32)
        data = tf.raw_ops.DataServiceDatasetV2(
            dataset_id=0,
            processing_mode="",
            address="localhost:1",
            protocol="grpc",
            job_name="",
            consumer_index=0,
            num_consumers=1,
            max_outstanding_requests=1,
            iteration_counter=tf.raw_ops.DummyIterationCounter(),
            output_types=[tf.float32],
            output_shapes=[[]],
        )
        return {"y": y + z, "count": tf.raw_ops.DatasetCardinality(input_dataset=data)}

    module.remote = remote
    found = external_ops(meta_graph(models.save(module, tmp_path / "1", remote)))
    assert found == {"runs Python": ["EagerPyFunc", "PyFunc"], "uses the network": ["DataServiceDatasetV2"]}


def test_ops_that_tensorflow_does_not_know_are_named(half_plus_two: Path) -> None:
    found = meta_graph(half_plus_two / "1")
    for function in found.graph_def.library.function:
        for node in function.node_def:
            node.op = "MyOwnOp" if node.op == "AddV2" else node.op
    assert external_ops(found) == {"is not known": ["MyOwnOp"]}


def test_a_load_says_so_once_and_serves(reaching: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = savedmodel.load(str(reaching), ["serve"], session_config(Options()))
    model.close()
    (message,) = (record.getMessage() for record in caplog.records if "reach outside" in record.getMessage())
    assert message == (
        f"The model in {reaching} has ops that reach outside it: reads files: ReadFile, TFRecordDataset; "
        "writes files: WriteFile; writes to the log or a file: PrintV2."
    )


def test_a_load_can_refuse_them(reaching: Path) -> None:
    with pytest.raises(ServingError, match="--refuse_models_with_external_ops is set") as caught:
        savedmodel.load(str(reaching), ["serve"], session_config(Options()), refuse_external_ops=True)
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert "reads files: ReadFile" in caught.value.message
