from __future__ import annotations

import time
from pathlib import Path

import pytest
from tensorflow.python.lib.io._pywrap_record_io import RecordIterator

from app.config.request_logging import RequestLogging
from app.errors import ServingError
from app.options import Options
from app.recording import recorders
from app.recording.recorders import RequestLogs
from app.telemetry.instruments import Counter
from app.telemetry.observation import Observation

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def make() -> tuple[RequestLogs, Counter]:
    counter = Counter("/tensorflow/serving/request_log_count", ("model_name", "status_code"))
    return RequestLogs(Options(), counter), counter


def ask(logs: RequestLogs, model: str = "m", path: str = PREDICT, request: bytes = b"") -> bool:
    """A call that succeeds; whether it was picked."""
    seen = Observation("GRPC", "POST", path, recorders=logs)
    seen.asked_for(model, "")
    seen.served_by(1)
    seen.exchanged(request, b"")
    return seen.recorder is not None


def count(directory: Path, pattern: str) -> int:
    return sum(len(list(RecordIterator(str(file), ""))) for file in directory.glob(pattern))


def test_nothing_is_recorded_until_it_is_configured(tmp_path: Path) -> None:
    logs, _ = make()
    assert not logs.active
    assert not ask(logs)
    changes = []
    logs.when_changed = lambda: changes.append(logs.active)
    logs.apply({"m": RequestLogging(str(tmp_path / "m"), 0.0)})
    logs.apply({"m": RequestLogging(str(tmp_path / "m"), 1.0)})
    assert ask(logs)
    assert not ask(logs, "other")
    logs.apply({})
    assert changes == [False, True, False]
    assert not ask(logs)
    assert count(tmp_path, "m-*.tfrecord") == 1


def test_the_rate_is_that_of_the_model_and_models_may_share_files(tmp_path: Path) -> None:
    logs, counter = make()
    prefix = str(tmp_path / "all")
    logs.apply({"a": RequestLogging(prefix, 0.2), "b": RequestLogging(prefix, 1.0)})
    picked = sum(ask(logs, "a") for _ in range(2000))
    assert 250 < picked < 550  # 6 standard deviations to each side and more
    assert all(ask(logs, "b") for _ in range(100))
    ask(logs, "b", path="/tensorflow.serving.PredictionService/GetModelMetadata")
    logs.close(time.monotonic() + 30)
    assert count(tmp_path, "all-*.tfrecord") == picked + 100
    assert counter.cells() == [(("a", "OK"), picked), (("b", "OK"), 100)]


def test_what_is_too_much_is_dropped_counted_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorders, "_MOST_BYTES_WAITING", 1000)
    logs, counter = make()
    logs.apply({"m": RequestLogging(str(tmp_path / "m"), 1.0)})
    for _ in range(50):
        ask(logs, request=b"x" * 2000)
    assert counter.cells() == [(("m", "RESOURCE_EXHAUSTED"), 50)]
    assert [record.getMessage() for record in caplog.records] == [
        f"1 requests were not recorded under {tmp_path}/m: more came than could be written."
    ]
    logs.close(time.monotonic() + 30)


def test_a_directory_that_goes_away_costs_records_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logs, counter = make()
    logs.apply({"m": RequestLogging(str(tmp_path / "gone" / "m"), 1.0)})
    ask(logs)
    logs.close(time.monotonic() + 30)
    assert counter.cells() == [(("m", "UNAVAILABLE"), 1)]
    assert "1 requests were not recorded under" in caplog.text


def test_directories_are_made_and_those_that_cannot_be_are_refused(tmp_path: Path) -> None:
    logs, _ = make()
    logs.check({"m": RequestLogging(str(tmp_path / "a" / "b" / "m"), 1.0)})
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ServingError, match=r"Requests of model m cannot be recorded under .*/file/m: "):
        logs.check({"m": RequestLogging(str(tmp_path / "file" / "m"), 1.0)})
