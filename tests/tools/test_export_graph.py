from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.errors import ServingError
from app.tools.export_graph import convert_checkpoint, convert_frozen
from app.tools.local_model import LocalModel, sizes
from tests.support.models import tensorflow
from tests.tools.sources import save_checkpoints, save_frozen

INPUTS, OUTPUTS = {"x": "in/x:0"}, {"y": "out/y:0"}


def answer(path: Path, signature: str = "serving_default") -> float:
    model = LocalModel(str(path))
    loaded = model.loaded()
    (value,) = loaded.run(loaded.signatures[signature], {"x": np.array([0], np.float32)})["y"]
    model.close()
    return float(value)


@pytest.mark.parametrize(("source", "expected"), [("", 3.0), ("m-1", 2.0), ("m-1.meta", 2.0)])
def test_the_latest_checkpoint_or_the_one_that_is_named(tmp_path: Path, source: str, expected: float) -> None:
    save_checkpoints(tmp_path, 2.0, 3.0)
    (tmp_path / "out").mkdir()
    convert_checkpoint(str(tmp_path / source), str(tmp_path / "out"), INPUTS, OUTPUTS, "s")
    assert answer(tmp_path / "out", "s") == expected
    assert sizes(str(tmp_path / "out"))["variables bytes"] < 1000  # without the momentum


def test_what_is_missing_of_a_checkpoint_is_told(tmp_path: Path) -> None:
    save_checkpoints(tmp_path, 2.0)
    (tmp_path / "m-1.meta").unlink()
    with pytest.raises(ServingError, match=r"m-1\.meta is not there"):
        convert_checkpoint(str(tmp_path), str(tmp_path), INPUTS, OUTPUTS)
    (tmp_path / "checkpoint").unlink()
    with pytest.raises(ServingError, match="holds no checkpoint"):
        convert_checkpoint(str(tmp_path), str(tmp_path), INPUTS, OUTPUTS)


def test_tensors_that_are_not_there_are_told_with_similar_ones(tmp_path: Path) -> None:
    save_checkpoints(tmp_path, 2.0)
    with pytest.raises(ServingError, match=r"no tensor y:0\. Operations with such a name: .*out/y"):
        convert_checkpoint(str(tmp_path), str(tmp_path), INPUTS, {"y": "y:0"})


def test_a_graph_that_is_not_frozen_or_none_is_refused(tmp_path: Path) -> None:
    tf1 = tensorflow().compat.v1
    with tf1.Graph().as_default() as graph:
        tf1.get_variable("v", initializer=1.0)
    file = tmp_path / "g.pb"
    file.write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(ServingError, match="is not frozen"):
        convert_frozen(str(file), str(tmp_path), {}, {"v": "v:0"})
    file.write_bytes(b"\xff\xff")
    with pytest.raises(ServingError, match="is no GraphDef"):
        convert_frozen(str(file), str(tmp_path), {}, {"v": "v:0"})


def test_a_frozen_graph_is_exported(tmp_path: Path) -> None:
    source = save_frozen(tmp_path / "g.pb", 5.0)
    (tmp_path / "out").mkdir()
    convert_frozen(str(source), str(tmp_path / "out"), {"x": "x:0"}, {"y": "y:0"})
    assert answer(tmp_path / "out") == 5.0
