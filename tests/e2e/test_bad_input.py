"""What a user is told when something is wrong: once, what was looked at, found, and what to do."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.process import ServerProcess, accepts, wait_until

NO_RETRY = ("--max_num_load_retries=0",)


def only_line(server: ServerProcess, text: str) -> str:
    """The one line of the log that holds `text`."""
    (line,) = (line for line in server.log.splitlines() if text in line)
    return line


def test_a_missing_base_path_is_waited_for_and_told_once(
    start_server: StartServer, half_plus_two: Path, tmp_path: Path
) -> None:
    base_path = tmp_path / "absent"
    server = start_server(base_path)
    server.wait_log("Could not find base path")
    other = tmp_path / "other"
    other.mkdir()
    (other / "text").write_text("no version")
    other.rename(base_path)
    server.wait_log("No versions of servable")  # a later look: the first message was not repeated before
    line = only_line(server, "Could not find base path")
    assert f"{base_path} for servable model with error NOT_FOUND: {base_path} not found" in line
    assert "Create or mount it" in line
    assert not accepts(server.rest_port)
    assert not accepts(server.grpc_port)
    shutil.copytree(half_plus_two / "1", base_path / "1")
    assert server.wait_ready().predict([1.0]).json() == {"predictions": [2.5]}


def test_an_empty_base_path_is_told_once_over_many_looks(start_server: StartServer, tmp_path: Path) -> None:
    base_path = tmp_path / "empty"
    base_path.mkdir()
    server = start_server(base_path)
    server.wait_log("Did you forget to name your leaf directory as a number")
    for number in range(3):  # each new entry makes the server look again
        (base_path / f"not-a-version-{number}").mkdir()
    (base_path / "1").mkdir()  # a version, at last, but an empty one
    server.wait_log("does not appear to contain a SavedModel")
    line = only_line(server, "No versions of servable")
    assert f"under base path {base_path}" in line


def test_a_corrupt_model_fails_the_start_with_one_line(start_server: StartServer, tmp_path: Path) -> None:
    version = tmp_path / "corrupt" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"\x0a\xff\xff not a model")
    server = start_server(version.parent, flags=NO_RETRY)
    assert server.wait_exit() == 255
    line = only_line(server, "Failed to start server. Error:")
    assert (
        "UNKNOWN: 1 servable(s) did not become available: {{{name: model version: 1} due to error: " in line
    )
    assert f"Can't parse {version / 'saved_model.pb'}" in line
    assert "export or copy the model again" in line


def test_a_failing_load_is_told_once_while_it_is_retried(start_server: StartServer, tmp_path: Path) -> None:
    version = tmp_path / "corrupt" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"")
    flags = ("--max_num_load_retries=20", "--load_retry_interval_micros=10000")
    server = start_server(version.parent, flags=flags)
    assert server.wait_exit() == 255
    assert "It is tried again up to 20 times" in only_line(
        server, "Loading servable: {name: model version: 1} failed"
    )
    assert server.log.count("Loading servable version") == 21


@pytest.mark.parametrize("flag", ["port", "rest_api_port"])
def test_a_port_in_use_is_found_at_once(start_server: StartServer, half_plus_two: Path, flag: str) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = start_server(half_plus_two, flags=[f"--{flag}={port}"])
        assert server.wait_exit() == 255
    assert server.log == (
        f"Failed to start server. Error: UNAVAILABLE: Cannot listen on port {port}: Address already in use. "
        f"Stop what uses it or choose another port with --{flag}.\n"
    )


def test_two_servers_that_still_load_do_not_share_a_port(start_server: StartServer, tmp_path: Path) -> None:
    first = start_server(tmp_path / "absent")
    first.wait_log("Could not find base path")
    for flag, port in (("port", first.grpc_port), ("rest_api_port", first.rest_port)):
        second = start_server(tmp_path / "absent", flags=[f"--{flag}={port}"])
        assert second.wait_exit() == 255
        assert f"Cannot listen on port {port}" in second.log


def test_a_file_as_base_path_is_told(start_server: StartServer, tmp_path: Path) -> None:
    base_path = tmp_path / "model"
    base_path.write_text("")
    server = start_server(base_path)
    server.wait_log(f"Base path {base_path} for servable model is a file, not a directory.")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_base_path="], "INVALID_ARGUMENT: Both server_options.model_base_path and "),
        (["--model_base_path=relative"], "INVALID_ARGUMENT: Expected model model to have an absolute path"),
        (["--model_config_file=/no.config"], "NOT_FOUND: /no.config; No such file or directory"),
        (["--model_config_file=/"], "NOT_FOUND: /; No such device"),
        (["--ssl_config_file=/ssl.config"], "NOT_FOUND: /ssl.config; No such file or directory"),
        (["--rest_ssl_config_file=/"], "NOT_FOUND: /; No such device"),
        (["--auth_tokens_file=/dev/null"], "INVALID_ARGUMENT: /dev/null; Invalid argument"),
        (["--rest_api_num_threads=0"], "INVALID_ARGUMENT: --rest_api_num_threads must be at least 1; was 0."),
    ],
)
def test_flags_that_cannot_work_fail_the_start(
    start_server: StartServer, half_plus_two: Path, flags: list[str], message: str
) -> None:
    server = start_server(half_plus_two, flags=flags)
    assert server.wait_exit() == 255
    assert only_line(server, "Failed to start server. Error: ").startswith(
        f"Failed to start server. Error: {message}"
    )


def test_a_bad_second_version_leaves_the_first_serving(
    start_server: StartServer, half_plus_two: Path, tmp_path: Path
) -> None:
    base_path = tmp_path / "model"
    shutil.copytree(half_plus_two, base_path)
    server = start_server(base_path, flags=NO_RETRY).wait_ready()
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "saved_model.pb").write_bytes(b"damaged")
    bad.rename(base_path / "2")
    wait_until(lambda: server.states().get(2) == "END", "version 2 was given up")
    assert server.states() == {1: "AVAILABLE", 2: "END"}
    assert server.predict([1.0]).json() == {"predictions": [2.5]}
