from __future__ import annotations

import logging
import threading

import pytest

from app.errors import ServingError, invalid_argument
from app.security.watched import Poller, Watched
from tests.support.process import wait_until


class Source:
    """Something to read: a value, or the error to raise. Values of 10 and more are refused by `check`."""

    def __init__(self) -> None:
        self.value: int | Exception = 1

    def read(self) -> int:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def check(self, value: int) -> None:
        if value >= 10:
            raise invalid_argument(f"{value} is too much")


def test_the_last_good_value_is_in_force(caplog: pytest.LogCaptureFixture) -> None:
    source = Source()
    watched = Watched("some_file", source.read, source.check)
    with caplog.at_level(logging.INFO):
        source.value = 2
        watched.look()
        watched.look()
        assert watched.value == 2
        for bad in (10, invalid_argument("no value"), KeyError("x")):
            source.value = bad
            watched.look()
            watched.look()
            assert watched.value == 2
        source.value = 2  # the old one again is no change
        watched.look()
        source.value = 10
        watched.look()
    kept = "--some_file: what was read before stays in force."
    assert caplog.messages == [
        "--some_file: what changed is in force.",
        f"{kept} INVALID_ARGUMENT: 10 is too much",
        f"{kept} INVALID_ARGUMENT: no value",
        f"{kept} KeyError: 'x'",
        f"{kept} INVALID_ARGUMENT: 10 is too much",
    ]


@pytest.mark.parametrize("value", [10, invalid_argument("no value")])
def test_a_bad_first_value_is_refused(value: int | Exception) -> None:
    source = Source()
    source.value = value
    with pytest.raises(ServingError):
        Watched("some_file", source.read, source.check)


def test_a_poller_looks_until_it_is_stopped() -> None:
    source = Source()
    watched = Watched("some_file", source.read, source.check)
    poller = Poller([watched], 0.001)
    poller.start()
    source.value = 2
    wait_until(lambda: watched.value == 2, "the new value")
    poller.stop()
    wait_until(lambda: "ferry-secrets" not in {t.name for t in threading.enumerate()}, "the thread's end")


def test_without_anything_to_watch_there_is_no_thread() -> None:
    before = threading.active_count()
    Poller([]).start()
    assert threading.active_count() == before
