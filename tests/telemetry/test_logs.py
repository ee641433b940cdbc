from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator

import pytest

from app.telemetry.logs import TensorFlowFormatter, configure


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
    yield
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
