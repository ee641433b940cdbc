from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.tools.inspect import report, targets
from app.tools.local_model import LocalModel
from tests.support import models
from tests.support.process import REPOSITORY, ServerProcess
from tests.tools.conftest import ferry, ferry_json, run_ferry

MODELS = ("half", "counting", "two", "probe", "identity", "words", "pixel", "sample")


def told(path: Path, server: ServerProcess) -> dict[str, Any]:
    rest, grpc = f"127.0.0.1:{server.rest_port}", f"127.0.0.1:{server.grpc_port}"
    return report(LocalModel(str(path)), rest=rest, grpc=grpc)


@pytest.mark.parametrize("name", MODELS)
def test_every_curl_line_is_answered(zoo: Path, zoo_server: ServerProcess, name: str) -> None:
    lines = {key: s["curl"] for key, s in told(zoo / name, zoo_server)["signatures"].items() if s["curl"]}
    assert lines
    for signature, line in lines.items():
        answer = subprocess.run(["bash", "-c", line], capture_output=True, check=True, timeout=60).stdout
        assert json.loads(answer).keys() & {"predictions", "outputs", "results"}, (signature, line, answer)


@pytest.mark.parametrize("name", MODELS)
def test_every_grpc_program_is_answered(zoo: Path, zoo_server: ServerProcess, name: str) -> None:
    for signature, entry in told(zoo / name, zoo_server)["signatures"].items():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(entry["grpc"], signature, "exec"), {})
        assert "model_spec" in printed.getvalue(), signature


def test_a_signature_that_json_cannot_carry_says_so_instead(zoo: Path) -> None:
    signatures = report(LocalModel(str(zoo / "identity")))["signatures"]
    assert signatures["id_float16"]["curl"] is None
    assert signatures["id_float16"]["note"] == "JSON cannot carry the input x of type half."
    count = report(LocalModel(str(zoo / "counting")))["signatures"]["count"]
    assert (count["curl"], count["note"]) == (None, "REST cannot call a signature without inputs.")


def test_a_path_is_read_without_tensorflow_and_without_a_run(zoo: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "app.tools", "inspect", str(zoo / "half"), "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    assert (found["model"], found["version"], found["tags"]) == ("half", 3, ["serve"])
    assert found["source"] == str(zoo / "half" / "3")
    assert found["bytes"] > found["graph bytes"] > 0
    assert found["variables bytes"] > 0
    assert found["signatures"]["serving_default"]["inputs"] == {
        "x": {"dtype": "DT_FLOAT", "shape": [-1], "tensor": "serving_default_x:0"}
    }
    assert "tensorflow.core.protobuf.saved_model_pb2" in done.stderr
    assert "tensorflow.python" not in done.stderr


def test_ops_that_touch_files_are_told(zoo: Path, tmp_path: Path) -> None:
    found = report(LocalModel(str(zoo / "words")))
    assert found["file ops at load"] == ["InitializeTableFromTextFileV2"]
    assert found["signatures"]["serving_default"]["file ops"] == []
    tf = models.tensorflow()
    module = tf.Module()
    module.read = tf.function(
        lambda name: {"content": tf.map_fn(tf.io.read_file, name)},
        input_signature=[tf.TensorSpec([None], tf.string, name="name")],
    )
    models.save(module, tmp_path / "reader" / "1", module.read)
    found = report(LocalModel(str(tmp_path / "reader")))
    assert found["signatures"]["serving_default"]["file ops"] == ["ReadFile"]
    assert "ReadFile" in ferry("inspect", str(tmp_path / "reader"))


def test_run_runs_the_model(zoo: Path) -> None:
    found = ferry_json("inspect", str(zoo / "counting" / "1"), "--run")
    assert {name: entry["run"] for name, entry in found["signatures"].items()} == dict.fromkeys(
        ("classify", "count", "regress", "serving_default"), "OK"
    )


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_running_server_is_asked_and_teaches_the_features(zoo_server: ServerProcess, protocol: str) -> None:
    ports = {"rest": zoo_server.rest_port, "grpc": zoo_server.grpc_port}
    # The protocol is found out.
    (target,) = targets(f"127.0.0.1:{ports[protocol]}", model="counting")
    found = report(target, rest=f"127.0.0.1:{zoo_server.rest_port}", run=True)
    assert (found["model"], found["version"]) == ("counting", 1)
    ran = {name: entry["run"] for name, entry in found["signatures"].items()}
    assert ran["serving_default"] == ran["regress"] == "OK"
    # TensorFlow 2 calls all methods predict: the string is a serialised tf.Example with a float x.
    answer = subprocess.run(
        ["bash", "-c", found["signatures"]["regress"]["curl"]],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert json.loads(answer.stdout) == {"predictions": [1.0]}
    assert f"127.0.0.1:{ports[protocol]}" in json.dumps(found)


def test_all_models_of_a_server_that_lists_them(zoo_server: ServerProcess) -> None:
    text = ferry("inspect", f"http://127.0.0.1:{zoo_server.rest_port}", "--model", "")
    for name in MODELS:
        assert f"{name}, version " in text
    one = ferry_json("inspect", f"{zoo_server.rest}/v1/models/two/versions/1")
    assert one["model"] == "two"


def test_mistakes_are_told(zoo: Path, zoo_server: ServerProcess, tmp_path: Path) -> None:
    for place, said in {
        str(tmp_path / "nothing"): "not found",
        str(tmp_path): "neither a version directory",
        "127.0.0.1:1": "does not answer",
        f"grpc://127.0.0.1:{zoo_server.grpc_port}": "name one with --model",
        f"{zoo_server.rest}/v1/models/nope": "Servable not found for request: Latest(nope)",
        f"{zoo_server.rest}/other": "the path has to be /v1/models/NAME",
    }.items():
        done = run_ferry("inspect", place)
        assert done.returncode == 1, place
        assert said in done.stderr, place
        assert "Traceback" not in done.stderr
    done = run_ferry("inspect", str(zoo / "half"), "--tags", "train")
    assert "{ train }" in done.stderr


def test_a_model_without_saved_model_pb_may_be_tensorflow_lite(zoo: Path, tmp_path: Path) -> None:
    tf = models.tensorflow()
    version = tmp_path / "lite" / "1"
    version.mkdir(parents=True)
    saved = zoo / "half" / "3"
    (version / "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert())
    found = report(LocalModel(str(tmp_path / "lite")), run=True)
    assert found["format"] == "TensorFlow Lite"
    assert found["signatures"]["serving_default"]["run"] == "OK"
    shutil.rmtree(version)


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_classify_and_regress_are_taught_too(zoo: Path, zoo_server: ServerProcess, protocol: str) -> None:
    port = zoo_server.rest_port if protocol == "rest" else zoo_server.grpc_port
    (target,) = targets(f"127.0.0.1:{port}", model="sample", protocol=protocol)
    signature = report(target)["signatures"]["regress_x_to_y"]
    assert "does not tell which features" in signature["note"]
    signature = report(target, rest=f"127.0.0.1:{zoo_server.rest_port}", run=True)["signatures"][
        "regress_x_to_y"
    ]
    assert signature["run"] == "OK"
    answer = subprocess.run(["bash", "-c", signature["curl"]], capture_output=True, check=True, timeout=60)
    assert json.loads(answer.stdout) == {"results": [2.5]}
    local = report(LocalModel(str(zoo / "sample")))["signatures"]["regress_x_to_y"]
    assert '"x": [1.0]' in local["curl"]
