from __future__ import annotations

import os

from app.rest.supervisor import WorkerState


def test_what_a_worker_writes_its_parent_reads() -> None:
    state = WorkerState()
    assert (state.served, state.told) == (False, False)
    child = os.fork()
    if child == 0:
        state.is_serving()
        state.failure_was_told()
        os._exit(0)
    os.waitpid(child, 0)
    assert (state.served, state.told) == (True, True)
    state.reset()
    assert (state.served, state.told) == (False, False)
