from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.engine.load_priority import LoadPriority


@pytest.mark.parametrize(
    ("enabled", "requests", "loaded", "yields"),
    [
        (True, True, True, True),
        (True, True, False, False),
        (True, False, True, False),
        (False, True, True, False),
    ],
)
def test_who_yields(enabled: bool, requests: bool, loaded: bool, yields: bool) -> None:
    priority = LoadPriority(enabled=enabled)
    if requests:
        priority.requests_begin()
    if loaded:
        priority.loaded()
    usual = os.sched_getscheduler(0)

    def scheduler_of_a_load() -> int:
        priority.yield_to_requests()
        return os.sched_getscheduler(0)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(scheduler_of_a_load).result() == (os.SCHED_IDLE if yields else usual)
    assert os.sched_getscheduler(0) == usual
