"""The README's quick start without Docker, word for word but for the ports."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

from tests.support.process import REPOSITORY, accepts, free_port, wait_until


def readme_commands() -> list[str]:
    """The shell commands of the README, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def test_make_serve_and_the_readme_s_curl(tmp_path: Path) -> None:
    commands = readme_commands()
    assert "make serve" in commands
    grpc_port, rest_port = free_port(), free_port()
    log = tmp_path / "log"
    with log.open("wb") as stream:
        make = subprocess.Popen(
            ["make", "serve", f"GRPC_PORT={grpc_port}", f"REST_PORT={rest_port}"],
            cwd=REPOSITORY,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        # Setting up from nothing downloads TensorFlow, hence the patience.
        wait_until(lambda: accepts(rest_port) or make.poll() is not None, "make serve answers", seconds=300)
        assert make.poll() is None, log.read_text()
        (curl,) = (command for command in commands if command.startswith("curl"))
        answer = subprocess.run(
            shlex.split(curl.replace(":8501", f":{rest_port}")), capture_output=True, check=True, timeout=60
        )
        assert json.loads(answer.stdout) == {"predictions": [2.5, 3.0, 4.5]}
        assert answer.stdout.decode() in (REPOSITORY / "README.md").read_text()
        os.killpg(make.pid, signal.SIGINT)  # Ctrl-C
        make.wait(60)
        assert not accepts(rest_port)
    finally:
        if make.poll() is None:
            os.killpg(make.pid, signal.SIGKILL)


def test_make_without_a_word_lists_the_words() -> None:
    listed = subprocess.run(["make"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for word in ("serve", "test", "lint", "image", "bench", "clean", "help"):
        assert re.search(rf"^  {word} ", listed, re.MULTILINE), word
    for command in readme_commands():
        if command.startswith("make "):
            assert re.search(rf"^  {command.split()[1]} ", listed, re.MULTILINE), command
