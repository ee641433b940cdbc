"""The window for the client's data."""

from __future__ import annotations

import pytest

from app.rpc.http2 import frames
from app.rpc.http2.frames import Http2ConnectionError
from app.rpc.http2.intake import Intake
from app.rpc.http2.outbox import Outbox


def test_the_window_is_announced_used_and_opened_again() -> None:
    outbox = Outbox(lambda _: None)
    intake = Intake(outbox, 100_000)
    assert outbox.take() == [frames.window_update(0, 100_000 - 65_535)]
    intake.take(49_999)
    intake.take(1)
    assert (intake.window, intake.taken) == (100_000, 50_000)
    intake.reopen()
    assert outbox.take() == [frames.window_update(0, 50_000)]
    with pytest.raises(Http2ConnectionError, match="window"):
        intake.take(100_001)
