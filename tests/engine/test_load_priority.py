from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.engine.load_priority import LoadPriority


def niceness_after_yielding(priority: LoadPriority) -> int:
    """Of a new thread."""

    def niceness() -> int:
        priority.yield_to_requests()
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(niceness).result()


@pytest.mark.parametrize(
    ("requests", "loaded", "yields"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_who_yields(requests: bool, loaded: bool, yields: bool) -> None:
    priority = LoadPriority()
    if requests:
        priority.requests_begin()
    if loaded:
        priority.loaded()
    usual = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert (niceness_after_yielding(priority) > usual) == yields
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == usual
