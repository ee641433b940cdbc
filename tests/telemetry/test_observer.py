from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from app.errors import ServingError
from app.options import Options
from app.telemetry import observer as observers
from app.telemetry.access_log import AccessLog
from app.telemetry.metrics import Registry
from app.telemetry.observation import Observation
from app.telemetry.observer import Observer, from_options


class Recorders:
    def __init__(self) -> None:
        self.active = False
        self.when_changed: Callable[[], None] = lambda: None
        self.closed = False

    def pick(self, model: str) -> None:
        raise AssertionError(model)

    def close(self, deadline: float) -> None:
        del deadline
        self.closed = True


class Slow(AccessLog):
    """Writes when it is told to."""

    def __init__(self) -> None:
        super().__init__(errors_only=False)
        self.go_on = threading.Event()
        self.told: list[Observation] = []

    def write(self, seen: Observation) -> None:
        self.go_on.wait(30)
        self.told.append(seen)


def test_it_is_active_exactly_while_somebody_wants_to_see() -> None:
    assert not Observer().active
    assert from_options(Options(access_log="errors")).active
    recorders = Recorders()
    observer = from_options(Options(), recorders)
    assert not observer.active
    recorders.active = True
    recorders.when_changed()
    assert observer.active
    recorders.active = False
    recorders.when_changed()
    assert not observer.active
    observer.stop(time.monotonic() + 30)
    assert recorders.closed


def test_what_comes_too_fast_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "_MOST_WAITING", 3)
    log = Slow()
    observer = Observer(log)
    registry = Registry()
    observer.add_metrics(registry)
    seen = observer.begin("REST", "GET", "/x")
    for _ in range(100):
        observer.end(seen, 5)
    log.go_on.set()
    observer.stop(time.monotonic() + 30)
    assert 3 <= len(log.told) < 100
    assert registry.first_value("/ferry/observations_dropped") == 100 - len(log.told)
    assert seen.response_bytes == 5
    assert seen.ended > seen.began


def test_a_protocol_that_is_not_spoken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ServingError, match=r"http/protobuf only; OTEL_EXPORTER_OTLP_PROTOCOL is `grpc`"):
        from_options(Options(enable_tracing=True))
