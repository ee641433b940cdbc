"""Several models from a config file, changed while they are served."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2

from tests.conftest import StartServer
from tests.support import models
from tests.support.process import ServerProcess, wait_until


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    """Versions 1 and 2 of y = x / 2 + VERSION."""
    for version in (1, 2):
        models.save_half_plus(tmp_path / "model" / str(version), version)
    return tmp_path / "model"


def entry(name: str, base_path: Path, more: str = "") -> str:
    return f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "tensorflow" {more} }}'


def publish(file: Path, *entries: str) -> None:
    """Write the config beside `file` and rename it, so that it is never read half-written."""
    new = file.with_suffix(".new")
    new.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    new.rename(file)


def ask(server: ServerProcess, path: str) -> Any:
    body = {"instances": [0.0]}
    return requests.post(f"{server.rest}/v1/models/{path}:predict", json=body, timeout=30).json()


def answers(server: ServerProcess, path: str, expected: Any) -> bool:
    return bool(ask(server, path) == expected)


def test_a_config_file_is_served_and_followed(
    start_server: StartServer, base_path: Path, half_plus_two: Path, tmp_path: Path
) -> None:
    file = tmp_path / "models.config"
    every = "model_version_policy { all {} }"
    publish(file, entry("a", base_path, every), entry("b", half_plus_two))
    flags = [f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1"]
    server = start_server("/ignored", flags=flags).wait_ready()
    for version in (1, 2):  # each is loaded once it is seen to be complete
        expected = {"predictions": [float(version)]}
        wait_until(partial(answers, server, f"a/versions/{version}", expected), f"a's version {version}")
    assert ask(server, "a") == {"predictions": [2.0]}
    assert ask(server, "b") == {"predictions": [2.0]}
    assert ask(server, "a/labels/stable") == {"error": "Unrecognized servable version label: stable"}

    labels = 'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }'
    publish(file, entry("a", base_path, f"{every} {labels}"), entry("c", half_plus_two))
    wait_until(lambda: ask(server, "c") == {"predictions": [2.0]}, "c is served")
    assert ask(server, "a/labels/stable") == {"predictions": [1.0]}
    assert ask(server, "a/labels/canary") == {"predictions": [2.0]}
    gone = {"error": "Servable not found for request: Latest(b)"}
    wait_until(lambda: ask(server, "b") == gone, "b is unloaded")

    publish(file, entry("a", base_path, 'version_labels { key: "stable" value: 9 }'))
    server.wait_log("Request to assign label to version 9 of model a")
    file.write_text("model_config_list {\n  nope }")
    server.wait_log(f"Invalid protobuf file: '{file}'")
    assert ask(server, "a/labels/stable") == {"predictions": [1.0]}
    assert ask(server, "c") == {"predictions": [2.0]}
    assert server.log.count("Request to assign label to version 9 of model a") == 1


def test_a_reload_over_grpc(
    start_server: StartServer, base_path: Path, half_plus_two: Path, tmp_path: Path
) -> None:
    server = start_server(half_plus_two).wait_ready()

    def reload(*entries: str) -> Any:
        request = model_management_pb2.ReloadConfigRequest()
        text_format.Parse(" ".join(entries), request.config.model_config_list)
        return server.models.HandleReloadConfigRequest(request, timeout=60)

    rollback = "model_version_policy { specific { versions: 1 } }"
    assert reload(entry("model", half_plus_two), entry("a", base_path)).status.error_code == 0
    wait_until(partial(answers, server, "a", {"predictions": [2.0]}), "a's latest version")
    reload(entry("a", base_path, rollback))
    wait_until(lambda: ask(server, "a") == {"predictions": [1.0]}, "a is rolled back")
    wait_until(lambda: server.states() == {1: "END"}, "the first model is unloaded")

    with pytest.raises(grpc.RpcError) as raised:
        reload(entry("a", base_path), entry("a", base_path))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == "Illegal to list model a multiple times in config list"
    assert ask(server, "a") == {"predictions": [1.0]}
    shutil.rmtree(tmp_path / "model")


def test_labels_in_the_first_config_need_the_flag(
    start_server: StartServer, base_path: Path, tmp_path: Path
) -> None:
    file = tmp_path / "models.config"
    publish(file, entry("a", base_path, 'version_labels { key: "stable" value: 2 }'))
    server = start_server("/ignored", flags=[f"--model_config_file={file}"])
    assert server.wait_exit() == 255
    assert "FAILED_PRECONDITION: Request to assign label to version 2 of model a" in server.log
    flags = [f"--model_config_file={file}", "--allow_version_labels_for_unavailable_models"]
    server = start_server("/ignored", flags=flags).wait_ready()
    wait_until(partial(answers, server, "a/labels/stable", {"predictions": [2.0]}), "version 2, by its label")


def test_an_empty_config_serves_nothing_yet(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text("# later\n")
    server = start_server("/ignored", flags=[f"--model_config_file={file}"]).wait_ready()
    assert ask(server, "a") == {"error": "Servable not found for request: Latest(a)"}
    assert ask(server, "a/labels/x") == {"error": "Model labels does not init yet.x"}
    assert "Taking no action for empty config." in server.log
