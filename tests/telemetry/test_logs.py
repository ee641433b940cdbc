from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from app.telemetry.logs import JsonFormatter, TensorFlowFormatter, about, configure
from app.telemetry.observation import Observation


def record(level: int, message: str, *arguments: object, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("app.rest.worker", level, "/x.py", 12, message, arguments, None)
    made.created = 1767225599.000042
    made.__dict__.update(more)
    return made


def test_a_record_is_laid_out_as_tensorflows_lines_in_utc() -> None:
    line = TensorFlowFormatter().format(record(logging.INFO, "Running at %s:%d", "here", 8501))
    assert line == "2025-12-31 23:59:59.000042: I app/rest/worker.py:12] Running at here:8501"


@pytest.mark.parametrize(
    ("level", "letter"),
    [
        (logging.DEBUG, "D"),
        (logging.INFO, "I"),
        (logging.WARNING, "W"),
        (logging.ERROR, "E"),
        (logging.CRITICAL, "F"),
        (25, "I"),
    ],
)
def test_the_letter_of_a_level(level: int, letter: str) -> None:
    assert f": {letter} app/" in TensorFlowFormatter().format(record(level, "text"))


def test_a_traceback_follows() -> None:
    try:
        raise KeyError("gone")
    except KeyError:
        lines = (
            TensorFlowFormatter()
            .format(record(logging.ERROR, "failed", exc_info=sys.exc_info()))
            .splitlines()
        )
    assert lines[0].endswith("] failed")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "KeyError: 'gone'"


@pytest.fixture
def loggers() -> Iterator[None]:
    """Puts back what `configure` changes."""
    root, app = logging.getLogger(), logging.getLogger("app")
    before = (root.handlers, root.level, app.level)
    hooks = sys.excepthook, threading.excepthook
    shown = warnings.showwarning
    yield
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(capture=False)
    warnings.showwarning = shown
    for name in ("azure", "gcsfs"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    root.handlers, level, app_level = before
    root.setLevel(level)
    app.setLevel(app_level)


@pytest.mark.usefixtures("loggers")
def test_the_server_speaks_from_info_on_and_libraries_from_warnings_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure()
    configure()
    for name in ("app.lifecycle.manager", "library"):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logging.getLogger(name).log(level, "level %d", level)
    logging.getLogger("gcsfs").error("what the caller tells too")
    out, err = capsys.readouterr()
    assert out == ""
    line = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}: (. \S+?):\d+\] (.+)"
    assert [match.groups() for match in map(re.compile(line).fullmatch, err.splitlines()) if match] == [
        ("I app/lifecycle/manager.py", "level 20"),
        ("W app/lifecycle/manager.py", "level 30"),
        ("W library.py", "level 30"),
    ]
    assert len(err.splitlines()) == 3


@pytest.mark.usefixtures("loggers")
def test_what_a_full_disk_does_not_take_is_lost_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    with open("/dev/full", "w", buffering=1) as full:
        configure("json", full)
        logging.getLogger("app").warning("never seen")
        logging.getLogger("app").warning("%d", "no number")  # a mistake of ours is still told
        with contextlib.suppress(OSError):
            full.close()
    err = capsys.readouterr().err
    assert "no number" in err
    assert "never seen" not in err


def as_json(made: logging.LogRecord) -> dict[str, object]:
    line = JsonFormatter().format(made)
    assert "\n" not in line
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def test_json_has_one_object_for_an_event() -> None:
    assert as_json(record(logging.WARNING, "two\nlines %d", 1, model="m", version=3)) == {
        "time": "2025-12-31T23:59:59.000042Z",
        "severity": "WARNING",
        "module": "app/rest/worker.py",
        "line": 12,
        "message": "two\nlines 1",
        "model": "m",
        "version": 3,
    }


def test_json_has_the_traceback_in_its_line() -> None:
    try:
        raise KeyError("gone")
    except KeyError:
        found = as_json(record(logging.ERROR, "failed", exc_info=sys.exc_info()))
    assert str(found["exception"]).startswith("Traceback (most recent call last):\n")
    assert str(found["exception"]).endswith("KeyError: 'gone'")


def test_json_takes_whatever_it_is_given() -> None:
    found = as_json(record(logging.INFO, "\udcff", path="/\udcff", code=200, size=10**30, peer=object()))
    assert found["message"] == "\\udcff"
    assert str(found["peer"]).startswith("<object")


def test_json_lines_say_what_they_are_about_and_in_which_trace() -> None:
    seen = Observation("REST", "POST", "/x", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
    with about(model="m", version=1), about(version=2), seen:
        found = as_json(record(logging.INFO, "text"))
    assert (found["model"], found["version"], found["trace_id"]) == ("m", 2, "a" * 32)
    assert as_json(record(logging.INFO, "text")).keys().isdisjoint({"model", "trace_id"})


@pytest.mark.usefixtures("loggers")
def test_warnings_and_errors_that_end_threads_are_events(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    thread = threading.Thread(target=lambda: 1 // 0, name="unlucky")
    thread.start()
    thread.join()
    sys.excepthook(ValueError, ValueError("bad"), None)
    warnings.showwarning("careful", UserWarning, "x.py", 1)
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [one["severity"] for one in found] == ["ERROR", "CRITICAL", "WARNING"]
    assert found[0]["message"] == "An error ended the thread unlucky"
    assert "ZeroDivisionError" in found[0]["exception"]
    assert "ValueError: bad" in found[1]["exception"]
    assert "careful" in found[2]["message"]
