"""The soak of `make soak`, for a minute."""

from __future__ import annotations

import subprocess
import sys

from tests.support.process import REPOSITORY

SECONDS = 60  # of load; starts and the killed worker come on top


def test_nothing_is_lost_and_nothing_grows_in_a_minute() -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "bench" / "soak.py"), f"--seconds={SECONDS}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "nothing was lost, nothing grew" in done.stdout
