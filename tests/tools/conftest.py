"""One server with several models, for the tools to look at and to ask."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import models
from tests.support.process import REPOSITORY, ServerProcess


def ferry(*arguments: str, status: int = 0) -> str:
    """What `ferry` prints on standard output; it has to end with `status`."""
    done = run_ferry(*arguments)
    assert done.returncode == status, done.stderr + done.stdout
    return done.stdout


def run_ferry(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.tools", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def ferry_json(*arguments: str, status: int = 0) -> Any:
    return json.loads(ferry(*arguments, "--json", status=status))


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of base paths."""
    root = tmp_path_factory.mktemp("zoo")
    models.save_half_plus(root / "half" / "3")
    models.save_counting(root / "counting" / "1")
    models.save_two_inputs(root / "two" / "1")
    models.save_batch_probe(root / "probe" / "1")
    models.save_identity(root / "identity" / "1")
    models.save_vocabulary(root / "words" / "1", ["good", "bad"])
    models.save_first_pixel(root / "pixel" / "1")
    # A TF1 export with classify and regress.
    shutil.copytree(REPOSITORY / "models-sample" / "half_plus_two", root / "sample")
    return root


@pytest.fixture(scope="session")
def zoo_server(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of the whole zoo."""
    directory = tmp_path_factory.mktemp("zoo_server")
    blocks = (
        f'config {{ name: "{path.name}" base_path: "{path}" model_platform: "tensorflow" }}'
        for path in sorted(zoo.iterdir())
        if path.is_dir()
    )
    config = directory / "models.config"
    config.write_text("model_config_list { " + "\n".join(blocks) + " }")
    server = ServerProcess("", directory / "log", flags=[f"--model_config_file={config}"])
    try:
        yield server.wait_ready()
    finally:
        server.kill()
