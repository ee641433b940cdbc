"""Placement on TensorFlow's logical devices: two CPU devices stand for two GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorflow.core.framework import node_def_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

from app.engine import savedmodel
from app.engine.placement import devices, place
from app.engine.session_config import session_config
from app.engine.session_model import SessionModel
from app.options import Options
from tests.support import models

DEVICES = ("/device:CPU:0", "/device:CPU:1")


@pytest.fixture(scope="module")
def two_devices() -> Any:
    config = session_config(Options())
    config.device_count["CPU"] = 2
    return config


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save_counting(tmp_path_factory.mktemp("counting") / "1")


def load(path: Path, config: Any, device: str) -> SessionModel:
    return savedmodel.load(str(path), ["serve"], config, device=device)


def run(model: SessionModel, signature: str = "serving_default", **inputs: Any) -> dict[str, Any]:
    return model.run(model.signatures[signature], inputs)


def ran(model: SessionModel, inputs: dict[str, Any]) -> dict[str, set[str]]:
    """What TensorFlow ran where for serving_default: node names by device."""
    signature = model.signatures["serving_default"]
    metadata = config_pb2.RunMetadata()
    model._session.run(
        [spec.tensor for spec in signature.outputs.values()],
        {signature.inputs[alias].tensor: value for alias, value in inputs.items()},
        options=config_pb2.RunOptions(trace_level=config_pb2.RunOptions.FULL_TRACE),
        run_metadata=metadata,
    )
    return {
        stats.device.rpartition("/task:0")[2]: {node.node_name for node in stats.node_stats}
        for stats in metadata.step_stats.dev_stats
    }


def test_a_session_tells_its_devices(two_devices: Any) -> None:
    assert devices(two_devices, "CPU") == DEVICES
    assert devices(two_devices, "TPU") == ()


@pytest.mark.parametrize("device", DEVICES)
def test_every_op_of_a_replica_runs_on_its_own_device(
    two_devices: Any, counting: Path, vocabulary_path: Path, device: str
) -> None:
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (counting, {"x": np.array([1], np.float32)}, "AssignAddVariableOp"),  # a function, a variable
        (vocabulary_path, {"word": np.array([b"fox"], object)}, "LookupTableFindV2"),  # a TF1 table
    ]
    for path, inputs, telling in cases:
        model = load(path, two_devices, device)
        by_device = ran(model, inputs)
        model.close()
        assert any(telling in node for node in by_device.pop(device))
        for nodes in by_device.values():  # the first CPU takes arguments in and gives results out
            assert all(node.startswith(("_SOURCE", "_arg_", "_retval_")) for node in nodes), nodes


def test_replicas_do_not_share_variables(two_devices: Any, counting: Path) -> None:
    first, second = (load(counting, two_devices, device) for device in DEVICES)
    for _ in range(3):
        run(first, x=np.array([1], np.float32))
    run(second, x=np.array([1], np.float32))
    assert (run(first, "count")["predict"], run(second, "count")["predict"]) == (3, 1)
    first.close()
    assert run(second, x=np.array([1], np.float32))["y"].tolist() == [2.5]
    second.close()


def test_cpu_work_stays_and_everything_else_moves() -> None:
    meta_graph = meta_graph_pb2.MetaGraphDef()
    before = ["", "/gpu:0", "/job:worker/task:1/device:GPU:3", "/device:CPU:0", "/cpu:*", "/device:TPU:0"]
    body = meta_graph.graph_def.library.function.add()
    for nodes in (meta_graph.graph_def.node, body.node_def):
        nodes.extend(node_def_pb2.NodeDef(device=device) for device in before)
    place(meta_graph, "/device:GPU:1")
    for nodes in (meta_graph.graph_def.node, body.node_def):
        assert [node.device for node in nodes] == ["/device:GPU:1"] * 3 + before[3:]
