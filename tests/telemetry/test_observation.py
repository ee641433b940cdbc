from __future__ import annotations

import pytest

from app.errors import Code
from app.telemetry.observation import Observation, current, note_queue, note_run, peer_of, trace_id_of

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"01-{TRACE}-b7ad6b7169203331-00-more", TRACE),
        (f"ff-{TRACE}-b7ad6b7169203331-01", ""),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", ""),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", ""),
        (f"00-{TRACE}-b7ad6b7169203331", ""),
        ("", ""),
    ],
)
def test_the_trace_that_a_header_names(header: str, trace: str) -> None:
    assert trace_id_of(header) == trace
    assert Observation("GRPC", "POST", "/x", traceparent=header).trace_id == trace


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("10.0.0.1", 5), "10.0.0.1:5"),
        (("::1", 5, 0, 0), "[::1]:5"),
        (("::ffff:10.0.0.1", 5, 0, 0), "10.0.0.1:5"),
        ("", "unix"),
        (None, "unix"),
    ],
)
def test_addresses(address: object, text: str) -> None:
    assert peer_of(address) == text


def test_the_current_one_is_told_of_queue_and_run_in_order() -> None:
    note_run("Predict", 5)
    note_queue(1.0, 2.0)  # nobody is there to be told
    seen = Observation("REST", "POST", "/x")

    def work() -> str:
        assert current.get() is seen
        start = seen.started / 1e9
        note_queue(start, start + 1e-6)
        note_run("Predict", 10_000_000)  # the wait included
        return "done"

    assert seen.within(work) == "done"
    assert current.get() is None
    assert seen.queued[0] <= seen.queued[1] == seen.ran[0] <= seen.ran[1] <= seen.handled


def test_what_failed() -> None:
    seen = Observation("REST", "GET", "/x")
    seen.answered(Code.OK, 200)
    assert not seen.failed
    seen.answered(Code.OK, 404)
    assert seen.failed
    seen.answered(Code.INTERNAL)
    assert seen.failed
