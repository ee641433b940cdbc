from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from app.cpus import thread_seconds
from app.engine import savedmodel
from app.engine.compute_threads import HEAVY_SECONDS, NICENESS, ComputeThreads
from app.engine.session_config import session_config
from app.options import Options
from tests.support.process import ServerProcess


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def in_thread(work: object) -> list[object]:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(work()))  # type: ignore[operator]
    thread.start()
    thread.join()
    return found


def test_what_is_handed_over_goes_behind_others_and_nobody_else_does() -> None:
    threads = ComputeThreads()
    before = niceness()
    assert threads.run(niceness) == min(19, before + NICENESS)
    assert niceness() == before

    def fail() -> None:
        raise KeyError("as it was raised")

    with pytest.raises(KeyError, match="as it was raised"):
        threads.run(fail)


def test_what_was_computed_there_counts_for_the_thread_that_waited() -> None:
    threads = ComputeThreads()
    start = thread_seconds()

    def compute() -> float:
        begin = time.thread_time()
        while time.thread_time() < begin + 0.02:
            pass
        return time.thread_time() - begin

    assert thread_seconds() - start < threads.run(compute) <= thread_seconds() - start


def test_only_long_runs_are_handed_over_and_none_of_the_event_loops() -> None:
    threads = ComputeThreads()
    long, short = 2 * HEAVY_SECONDS, HEAVY_SECONDS / 2
    assert not threads.take(long), "this thread is the main thread, where the loop runs"
    assert in_thread(lambda: (threads.take(long), threads.take(short))) == [(True, False)]

    def in_a_load() -> bool:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        return threads.take(long)

    assert in_thread(in_a_load) == [False]


class Seen(ComputeThreads):
    """Counts what it runs."""

    runs = 0

    def run(self, work, *arguments, **named):  # type: ignore[no-untyped-def]
        self.runs += 1
        return super().run(work, *arguments, **named)


def test_a_model_whose_runs_last_long_is_run_there(busy: Path) -> None:
    threads = Seen()
    model = savedmodel.load(str(busy / "1"), ["serve"], session_config(Options()), compute=threads)
    signature = model.signatures["serving_default"]

    def ask(steps: int) -> None:
        model.run(signature, {"x": np.array(steps, np.int64)})

    try:
        in_thread(lambda: ask(1_000_000))  # nothing is known yet
        assert threads.runs == 0
        in_thread(lambda: ask(1_000_000))
        assert threads.runs == 1
        ask(1)  # as the event loop would
        assert threads.runs == 1
        while model.mean_seconds > HEAVY_SECONDS:
            ask(1)
        in_thread(lambda: ask(1))
        assert threads.runs == 1
    finally:
        model.close()


def test_tensorflows_own_threads_go_behind_those_of_requests(shared_server: ServerProcess) -> None:
    pid = shared_server.worker_pid()
    nice = {"tf_Compute": set[int](), "": set[int]()}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        nice["tf_Compute" if name == "tf_Compute" else ""].add(int(fields[16]))
    ours = niceness()
    assert nice["tf_Compute"] == {min(19, ours + NICENESS)}
    assert ours in nice[""]
