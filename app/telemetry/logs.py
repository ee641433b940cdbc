"""One line per event on stderr, laid out as TensorFlow's: `2026-01-01 00:00:00.000000: I file:LINE] text`."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

_LETTERS = {"DEBUG": "D", "INFO": "I", "WARNING": "W", "ERROR": "E", "CRITICAL": "F"}

# These tell each failed request, with a traceback; who asked tells it once, with what to do.
_SILENT = ("azure", "gcsfs")


class TensorFlowFormatter(logging.Formatter):
    """Formats records as TensorFlow Serving's log lines, times in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """One record to one line; a traceback follows on its own lines."""
        when = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        letter = _LETTERS.get(record.levelname, "I")
        place = f"{record.name.replace('.', '/')}.py:{record.lineno}"
        text = f"{when}: {letter} {place}] {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def configure() -> None:
    """Send the log of the whole process to stderr; libraries speak from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TensorFlowFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("app").setLevel(logging.INFO)
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)
