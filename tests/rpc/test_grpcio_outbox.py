from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from app.rpc.grpcio_outbox import Outbox
from tests.support.process import wait_until


def test_a_client_that_does_not_read_holds_nobody_up() -> None:
    release, sent = threading.Event(), list[int]()

    def send(message: int) -> None:
        assert release.wait(60)
        sent.append(message)

    with ThreadPoolExecutor(2) as pool:
        stalled, other = Outbox(send, pool), Outbox(sent.append, pool)
        for message in range(100):
            stalled.put(message)
        other.put(-1)
        wait_until(lambda: sent == [-1], "the other client is told")
        release.set()
        wait_until(lambda: len(sent) == 101, "the stalled client has read")
    assert sent[1:] == list(range(100)), "in order"
