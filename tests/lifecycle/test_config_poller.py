from __future__ import annotations

import queue

import pytest

from app.errors import invalid_argument
from app.lifecycle.config_poller import ConfigPoller


def test_it_reloads_at_once_and_again_and_tells_a_problem_once(caplog: pytest.LogCaptureFixture) -> None:
    called: queue.SimpleQueue[int] = queue.SimpleQueue()
    count = 0

    def reload() -> None:
        nonlocal count
        count += 1
        called.put(count)
        if count in {2, 3, 5}:
            raise invalid_argument("wrong")
        if count == 6:
            raise ZeroDivisionError

    poller = ConfigPoller(reload, 0.01)
    poller.start()
    for expected in range(1, 9):
        assert called.get(timeout=30) == expected
    poller.stop()
    poller._thread.join(30)
    assert not poller._thread.is_alive()
    problems = [text for text in caplog.messages if "failed to ReloadConfig: INVALID_ARGUMENT: wrong" in text]
    assert len(problems) == 2  # told at 2, not again at 3; right at 4; told at 5
