from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from app import __version__
from app.__main__ import main
from app.command_line import usage
from tests.support.process import REPOSITORY

NO_MODEL = (
    "Failed to start server. Error: INVALID_ARGUMENT: "
    "Both server_options.model_base_path and server_options.model_config_file are empty!\n"
)


def test_help_is_the_usage_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"], "/usr/bin/server") == 255
    assert capsys.readouterr() == (usage("/usr/bin/server"), "")


def test_bad_values_are_told_one_by_one_before_the_usage_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port=http", "--enable_batching=maybe", "--port=1"], "x") == 255
    assert capsys.readouterr() == (
        usage("x"),
        "Couldn't interpret value http for flag port.\n"
        "Couldn't interpret value maybe for flag enable_batching.\n",
    )


def test_a_bad_value_comes_before_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version", "--port=x"]) == 255
    assert "TensorFlow ModelServer" not in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--version"], ["--version=1", "--nonsense"]])
def test_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    tensorflow = metadata.version("tensorflow-cpu")
    assert capsys.readouterr() == (
        f"TensorFlow ModelServer: {__version__}+ferry\nTensorFlow Library: {tensorflow}\n",
        "",
    )


def test_a_start_that_fails_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 255
    assert capsys.readouterr() == (NO_MODEL, "")


def test_an_unknown_argument_is_told_and_the_start_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--first", "second", "--help"], "x") == 255
    assert capsys.readouterr() == (f"unknown argument: --first\n{usage('x')}{NO_MODEL}", "")


def test_the_health_check_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["healthcheck", "--rest_api_port=0", "--port=0", "--grpc_socket_path=/no/socket"]) == 1
    assert capsys.readouterr().err.startswith("the server does not answer: ")


def test_arguments_and_status_are_those_of_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 255
    assert done.stdout == usage("tensorflow_model_server")


def test_answers_that_need_no_model_do_not_import_tensorflow() -> None:
    code = """
import sys
from app.__main__ import main
for arguments in ("--help", "--version", "--port=x", "--unknown", "healthcheck --rest_api_port=1"):
    main(arguments.split())
print([name for name in ("tensorflow", "grpc") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_garbage_is_not_looked_for_in_what_stays(half_plus_two: Path) -> None:
    code = (
        "import gc, sys; from app.__main__ import _make_server; from app.command_line import parse\n"
        "from app.lifecycle.black_box import BlackBox\n"
        "_make_server(parse(sys.argv[1:]).options, BlackBox(), None)\n"
        "print(gc.get_freeze_count(), len(gc.get_objects()))"
    )
    arguments = ["--model_name=half_plus_two", f"--model_base_path={half_plus_two}"]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    frozen, others = map(int, result.stdout.split())
    assert frozen > 100_000
    assert others < frozen / 100
