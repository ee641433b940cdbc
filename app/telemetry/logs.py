"""The log of the process on stderr: one line per event, laid out as TensorFlow's or as JSON.

Text is `2026-01-01 00:00:00.000000: I file:LINE] text`, and a traceback follows on lines of its own. JSON is
one object per line, whatever it has to say.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

import orjson

from app.telemetry.observation import current

_LETTERS = {"DEBUG": "D", "INFO": "I", "WARNING": "W", "ERROR": "E", "CRITICAL": "F"}

# These tell each failed request, with a traceback; who asked tells it once, with what to do.
_SILENT = ("azure", "gcsfs")

_subject: ContextVar[dict[str, Any] | None] = ContextVar("subject of log lines", default=None)
# What the library itself puts into a record, and what uvicorn adds for terminals.
_OF_EVERY_RECORD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message"}

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Give the JSON lines that this thread (or task) writes within the block these fields."""
    token = _subject.set({**(_subject.get() or {}), **fields})
    try:
        yield
    finally:
        _subject.reset(token)


class TensorFlowFormatter(logging.Formatter):
    """Formats records as TensorFlow Serving's log lines, times in UTC."""

    def __init__(self, *, processes: bool = False) -> None:
        """Put the process before the text if `processes`."""
        super().__init__()
        self._processes = processes

    def format(self, record: logging.LogRecord) -> str:
        """One record to one line; a traceback follows on its own lines."""
        when = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        letter = _LETTERS.get(record.levelname, "I")
        who = f"[{record.process}] " if self._processes else ""
        text = f"{when}: {letter} {_file(record)}:{record.lineno}] {who}{record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class JsonFormatter(logging.Formatter):
    """Formats records as JSON objects, one a line.

    `time` (RFC 3339, UTC), `severity`, `module`, `line` and `message` are always there; `exception`, with
    the traceback, and the fields of the event where it has them; `trace_id` of the request, if one is known;
    `pid` where there are several processes.
    """

    def __init__(self, *, processes: bool = False) -> None:
        """Tell the process if `processes`."""
        super().__init__()
        self._processes = processes

    def format(self, record: logging.LogRecord) -> str:
        """One record to one line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        line: dict[str, Any] = {
            "time": when.replace("+00:00", "Z"),
            "severity": record.levelname,
            "module": _file(record),
            "line": record.lineno,
            "message": record.getMessage(),
        }
        if self._processes:
            line["pid"] = record.process
        line |= _subject.get() or {}
        line |= {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}
        if "trace_id" not in line and (seen := current.get()) is not None and seen.trace_id:
            line["trace_id"] = seen.trace_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except orjson.JSONEncodeError:  # lone surrogates, from bytes that are no UTF-8
            safe = {
                name: str(value).encode(errors="backslashreplace").decode() for name, value in line.items()
            }
            return orjson.dumps(safe).decode()


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes records; what cannot be written (a full disk, a reader that is gone) is lost.

    To complain of that on stderr, as the library does, would feed on itself: with JSON, what is written
    there becomes events of the log.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def configure(form: str = "text", stream: TextIO | None = None, *, processes: bool = False) -> None:
    """Send the log of the whole process to stderr; libraries speak from warnings on.

    Warnings of Python and errors that end a thread or the process go there too.

    Args:
        form: one of options.LOG_FORMATS.
        stream: written to instead of stderr.
        processes: whether each line tells which process it is from.
    """
    handler = _StderrHandler(stream or sys.stderr)
    formatter = JsonFormatter if form == "json" else TensorFlowFormatter
    handler.setFormatter(formatter(processes=processes))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("app").setLevel(logging.INFO)
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def _file(record: logging.LogRecord) -> str:
    return f"{record.name.replace('.', '/')}.py"


def _uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    logger.critical("An error ended the process", exc_info=(kind, error, traceback))


def _uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is None or issubclass(arguments.exc_type, SystemExit):
        return
    name = arguments.thread.name if arguments.thread is not None else "?"
    found = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
    logger.error("An error ended the thread %s", name, exc_info=found)
