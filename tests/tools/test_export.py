from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from app.errors import Code, ServingError
from app.tools.export import STAGING, STEPS, Wish, export, form_of, signature_pairs
from app.tools.inspect import report
from app.tools.local_model import LocalModel
from tests.conftest import StartServer
from tests.support import models
from tests.support.process import wait_until
from tests.tools.conftest import ferry, ferry_json, run_ferry
from tests.tools.sources import save_checkpoints, save_frozen, save_keras

XY: Any = {"inputs": {"x": "x:0"}, "outputs": {"y": "y:0"}}


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_frozen(tmp_path_factory.mktemp("frozen") / "graph.pb", 2.0))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "models"


def run(path: str, signature: str = "serving_default", **inputs: Any) -> dict[str, Any]:
    model = LocalModel(path)
    loaded = model.loaded()
    try:
        return dict(loaded.run(loaded.signatures[signature], inputs))
    finally:
        model.close()


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_versions_count_up_from_the_highest(frozen: str, base: Path) -> None:
    steps: list[str] = []
    first = export(Wish(frozen, str(base), "m", **XY), steps.append)
    assert (first.version, first.path, first.form) == (1, str(base / "m" / "1"), "frozen graph")
    assert len(steps) == STEPS
    assert first.signatures == {"serving_default": "OK"}
    (base / "m" / "0007").mkdir()
    assert export(Wish(frozen, str(base), "m", **XY)).version == 8
    assert export(Wish(frozen, str(base), "m", version=3, **XY)).version == 3
    assert names(base / "m") == ["0007", "1", "3", "8"]
    np.testing.assert_array_equal(run(first.path, x=np.array([1, 2], np.float32))["y"], [2.5, 3.0])


def test_nothing_is_overwritten(frozen: str, base: Path) -> None:
    (base / "m" / "03").mkdir(parents=True)
    with pytest.raises(ServingError, match="03 is there already and is not overwritten") as caught:
        export(Wish(frozen, str(base), "m", version=3, **XY))
    assert caught.value.code is Code.ALREADY_EXISTS
    assert names(base / "m") == ["03"]


def test_a_version_that_appears_meanwhile_is_left_alone(
    frozen: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def rename(source: str, target: str) -> None:
        if target.endswith("/1"):
            os.makedirs(os.path.join(target, "theirs"))
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    assert export(Wish(frozen, str(base), "m", **XY)).version == 2
    assert names(base / "m" / "1") == ["theirs"]


def test_a_dry_run_publishes_nothing(frozen: str, base: Path) -> None:
    made = export(Wish(frozen, str(base), "m", dry=True, **XY))
    assert (made.version, made.path) == (1, str(base / "m" / "1"))
    assert not base.exists()


def test_what_fails_leaves_nothing_behind(frozen: str, base: Path, tmp_path: Path) -> None:
    warm = tmp_path / "warm.json"
    warm.write_text('{"instances": ["no number"]}')
    with pytest.raises(ServingError, match=r"warm\.json"):
        export(Wish(frozen, str(base), "m", warmup=(str(warm),), **XY))
    assert names(base / "m") == []
    with pytest.raises(ServingError, match="no tensor z:0"):
        export(Wish(frozen, str(base), "m", outputs={"z": "z:0"}))
    assert names(base / "m") == []


def test_a_model_that_cannot_be_run_is_not_published_unless_asked(base: Path, tmp_path: Path) -> None:
    tf = models.tensorflow()
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def picky(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_equal(x[0], 42.0)]):
            return {"y": x * 2.0}

    module.picky = picky
    source = str(models.save(module, tmp_path / "source" / "1", picky))
    with pytest.raises(ServingError, match="answered no made-up request"):
        export(Wish(source, str(base), "m"))
    assert export(Wish(source, str(base), "m", run=False)).signatures == {"serving_default": "not run"}
    warm = tmp_path / "x.npy"
    np.save(warm, np.array([42], np.float32))
    made = export(Wish(source, str(base), "m", warmup=(str(warm),)))
    assert (made.version, made.warmup_records) == (2, 1)


def test_bad_wishes_are_refused(frozen: str, tmp_path: Path) -> None:
    base = str(tmp_path)
    for wish, text in [
        (Wish(frozen, "s3://b/m", "m"), "only a local directory"),
        (Wish(frozen, base, "a/b"), "cannot be a model's name"),
        (Wish(frozen, base, "m", version=0), "positive number"),
        (Wish(frozen, base, "m"), r"Placeholders: x:0\. Where they lead: y:0\."),
        (Wish(base + "/none", base, "m"), "is not there"),
        (Wish(base, base, "m", inputs={"x": "x:0"}), "for graphs without signatures"),
        (Wish(frozen, base, "m", signatures=("a", "b"), **XY), "a graph gets one signature"),
    ]:
        with pytest.raises(ServingError, match=text):
            export(wish)


def test_forms_are_recognised(tmp_path: Path) -> None:
    for name in ("a.keras", "a.h5", "graph.pb", "m-1.index", "saved_model.pb"):
        (tmp_path / name).touch()
    assert form_of(str(tmp_path / "a.keras")) == form_of(str(tmp_path / "a.h5")) == "Keras model"
    assert form_of(str(tmp_path / "graph.pb")) == "frozen graph"
    assert form_of(str(tmp_path / "m-1")) == form_of(str(tmp_path / "m-1.meta")) == "checkpoint"
    assert form_of(str(tmp_path)) == form_of(str(tmp_path / "saved_model.pb")) == "SavedModel"
    (tmp_path / "checkpoint").touch()
    assert form_of(str(tmp_path)) == "checkpoint"


def test_tensors_are_named() -> None:
    assert signature_pairs(["x=in/x:0", "in/y", "z=a:1"], "--input") == {
        "x": "in/x:0",
        "y": "in/y:0",
        "z": "a:1",
    }
    for wrong in (["=x"], ["x="], ["x=a", "x=b"]):
        with pytest.raises(ServingError, match="write NAME=TENSOR"):
            signature_pairs(wrong, "--input")


def test_a_running_server_takes_each_version_as_it_is_published(
    tmp_path: Path, base: Path, start_server: StartServer
) -> None:
    """From the command line, from every form of model, under a server's eyes."""
    checkpoints = save_checkpoints(tmp_path, 2.0, 3.0)
    named = ("--name", "model", "--input", "x=in/x:0", "--output", "y=out/y")
    warm = tmp_path / "warm.json"
    warm.write_text('[{"instances": [1.0, 2.0]}, {"inputs": [5.0]}]')
    printed = ferry("export", str(checkpoints / "m-1"), str(base), *named, "--warmup", str(warm))
    assert f"published {base / 'model' / '1'}: version 1 of model, from a checkpoint" in printed
    assert "warm-up records: 2" in printed
    server = start_server(base / "model").wait_ready()
    server.wait_log("Number of warmup records read: 2")
    assert server.predict([1.0]).json() == {"predictions": [2.5]}

    assert ferry_json("export", str(checkpoints), str(base), *named)["version"] == 2
    wait_until(
        lambda: server.predict([1.0]).json() == {"predictions": [3.5]}, "the latest checkpoint is served"
    )
    frozen = save_frozen(tmp_path / "frozen.pb", 4.0)
    made = ferry_json("export", str(frozen), str(base), "--name", "model", "--input", "x", "--output", "y")
    assert made["version"] == 3
    wait_until(lambda: server.predict([1.0]).json() == {"predictions": [4.5]}, "the frozen graph is served")
    keras = save_keras(tmp_path / "m.keras")
    assert ferry_json("export", str(keras), str(base), "--name", "model")["form"] == "Keras model"
    wait_until(
        lambda: server.predict([[1.0, 1.0, 1.0]]).json() == {"predictions": [[6.0, 6.0]]}, "Keras is served"
    )
    assert ferry_json("export", str(base / "model" / "2"), str(base), "--name", "model")["version"] == 5
    wait_until(lambda: server.predict([1.0]).json() == {"predictions": [3.5]}, "the SavedModel is served")
    assert names(base / "model") == ["1", "2", "3", "4", "5"]
    assert STAGING not in server.log
    assert requests.get(server.url(), timeout=30).json()["model_version_status"][0]["state"] == "AVAILABLE"


def test_the_command_line_tells_mistakes(frozen: str, base: Path) -> None:
    done = run_ferry("export", frozen, str(base), "--name", "m")
    assert done.returncode == 1
    assert "name them with --input NAME=TENSOR" in done.stderr
    assert "Traceback" not in done.stderr
    assert run_ferry("export", frozen, str(base)).returncode == 2
    printed = ferry("export", frozen, str(base), "--name", "m", "--output", "y", "--input", "x", "--dry-run")
    assert printed.startswith(f"would publish {base / 'm' / '1'}")
    assert not (base / "m" / "1").exists()


def test_report_of_an_export(frozen: str, base: Path) -> None:
    made = export(Wish(frozen, str(base), "m", signatures=("half",), **XY))
    assert list(report(LocalModel(made.path))["signatures"]) == ["half"]
