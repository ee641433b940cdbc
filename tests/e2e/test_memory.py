"""A version that is replaced gives its memory back: what the process holds does not grow."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

from tests.conftest import StartServer
from tests.support import models
from tests.support.process import resident_bytes, wait_until

SWAPS = 50
MEGABYTES = 100
# However busy the machine is, there is time to make each version fast.
NO_HURRY = "--model_optimization_load_factor=1000"


def sizes_after_swaps(start_server: StartServer, tmp_path: Path, exported: Path) -> tuple[list[int], str]:
    """The megabytes that the worker holds after each swap, and the server's log."""
    base_path = tmp_path / "model"
    base_path.mkdir()

    def publish(version: int) -> None:
        shutil.copytree(exported, tmp_path / "staged", copy_function=os.link)  # 5 GB in all otherwise
        (tmp_path / "staged").rename(base_path / str(version))

    def swapped(version: int) -> bool:
        states = server.states()
        return states.get(version) == "AVAILABLE" and states[version - 1] == "END"

    publish(1)
    server = start_server(base_path, flags=[NO_HURRY]).wait_ready()
    sizes = []
    for version in range(2, SWAPS + 2):
        publish(version)
        wait_until(partial(swapped, version), f"{version} has replaced {version - 1}")
        shutil.rmtree(base_path / str(version - 1))
        assert server.predict([1.0]).ok
        sizes.append(resident_bytes(server.worker_pid()) // 1_000_000)
    return sizes, server.log


def test_the_resident_size_stays_flat_over_many_swaps(start_server: StartServer, tmp_path: Path) -> None:
    exported = models.save_large(tmp_path / "exported", MEGABYTES)
    sizes, log = sizes_after_swaps(start_server, tmp_path, exported)
    assert "nothing in it to make faster" in log
    assert max(sizes[3:]) <= sizes[2] * 1.1, f"MB after each swap: {sizes}"


def test_it_does_so_with_models_that_are_made_fast(start_server: StartServer, tmp_path: Path) -> None:
    exported = models.save_convolutions(tmp_path / "exported", MEGABYTES)
    sizes, log = sizes_after_swaps(start_server, tmp_path, exported)
    assert log.count("Model made fast") > SWAPS * 0.8
    # What the C library keeps for the threads that load settles first.
    assert max(sizes[10:]) <= max(sizes[:10]) * 1.1, f"MB after each swap: {sizes}"
