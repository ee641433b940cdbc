"""Request logging: which requests are recorded, and the threads that write them.

A request is picked once its version is found, and recorded once it has succeeded, so that what is recorded
can be replayed. Recording never makes a request wait: what a file set's thread cannot keep up with is
dropped, and counted.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from app.config.request_logging import RequestLogging
from app.errors import Code, ServingError
from app.options import Options
from app.recording.prediction_logs import KINDS, prediction_log
from app.recording.record_files import RecordFiles
from app.telemetry.backlog import Backlog
from app.telemetry.instruments import Counter
from app.telemetry.observation import Messages, Observation

_MOST_WAITING = 10_000
_MOST_BYTES_WAITING = 64 << 20
_COMPLAINT_SECONDS = 60.0
# How long a change of the configuration may wait for files that it closes.
_CLOSE_SECONDS = 5.0

logger = logging.getLogger(__name__)


class _Entry(NamedTuple):
    """A request that waits to be written."""

    seen: Observation
    kind: str
    messages: Messages | Callable[[], Messages]
    sampling_rate: float


class _FileSet:
    """The files of one prefix, and the thread that writes them."""

    def __init__(self, prefix: str, options: Options, counter: Counter) -> None:
        self._prefix = prefix
        self._files = RecordFiles(
            prefix, options.request_log_max_file_mb * 1_000_000, options.request_log_max_files
        )
        self._counter = counter
        self._backlog: Backlog[_Entry] = Backlog(
            "ferry-request-log", self._write, most=_MOST_WAITING, most_bytes=_MOST_BYTES_WAITING
        )
        self._lock = threading.Lock()
        self._lost = 0  # since the last complaint
        self._complained_at = -_COMPLAINT_SECONDS

    def put(self, entry: _Entry, size: int) -> None:
        """Have `entry` written, unless too much waits already."""
        if not self._backlog.put(entry, size):
            self._lose([entry], Code.RESOURCE_EXHAUSTED, "more came than could be written")

    def _write(self, entries: Sequence[_Entry]) -> None:
        try:
            self._files.write(_serialized(entry) for entry in entries)
        except OSError as error:
            self._lose(entries, Code.UNAVAILABLE, str(error))
            return
        for entry in entries:
            self._counter.increment(entry.seen.model, Code.OK.name)

    def _lose(self, entries: Sequence[_Entry], code: Code, reason: str) -> None:
        for entry in entries:
            self._counter.increment(entry.seen.model, code.name)
        with self._lock:
            self._lost += len(entries)
            now = time.monotonic()
            if now < self._complained_at + _COMPLAINT_SECONDS:
                return
            lost, self._lost = self._lost, 0
            self._complained_at = now
        logger.warning("%d requests were not recorded under %s: %s.", lost, self._prefix, reason)

    def close(self, deadline: float) -> None:
        """Write what waits and finish the file, by `deadline` (monotonic)."""
        if self._backlog.stop(deadline):
            try:
                self._files.close()
            except OSError as error:
                logger.warning("The last file under %s could not be finished: %s.", self._prefix, error)


def _serialized(entry: _Entry) -> bytes:
    messages = entry.messages() if callable(entry.messages) else entry.messages
    return prediction_log(entry.seen, entry.kind, messages, entry.sampling_rate)


class ModelRecorder:
    """Takes the picked requests of one model."""

    def __init__(self, files: _FileSet, sampling_rate: float) -> None:
        """Have them written to `files`; they were picked at `sampling_rate`."""
        self._files = files
        self.sampling_rate = sampling_rate

    def exchange(self, seen: Observation, request: bytes, response: bytes) -> None:
        """Take the messages of a gRPC call, if its method is one that is recorded."""
        kind = KINDS.get(seen.path)
        if kind is not None:
            entry = _Entry(seen, kind, (request, response), self.sampling_rate)
            self._files.put(entry, len(request) + len(response))

    def record(self, seen: Observation, kind: str, make: Callable[[], Messages], size: int) -> None:
        """Take a request whose messages `make` makes; they have about `size` bytes."""
        self._files.put(_Entry(seen, kind, make, self.sampling_rate), size)


class RequestLogs:
    """The recorders of all models, as the configuration has them. Safe for any number of threads.

    Attributes:
        active: whether any request may be recorded.
        when_changed: called after each change.
    """

    def __init__(self, options: Options, counter: Counter, suffix: str = "") -> None:
        """Record nothing yet.

        Args:
            options: how large files become, and how many there are.
            counter: counts by model and status code.
            suffix: to every filename_prefix, where several processes record.
        """
        self._suffix = suffix
        self.active = False
        self.when_changed: Callable[[], None] = lambda: None
        self._options = options
        self._counter = counter
        self._recorders: Mapping[str, ModelRecorder] = {}
        self._files: dict[str, _FileSet] = {}

    def pick(self, model: str) -> ModelRecorder | None:
        """The recorder of `model` if this request is one that is recorded."""
        recorder = self._recorders.get(model)
        if recorder is None or random.random() >= recorder.sampling_rate:  # noqa: S311 - no secret
            return None
        return recorder

    def check(self, wanted: Mapping[str, RequestLogging]) -> None:
        """Make the directories that are missing.

        Raises:
            ServingError: FAILED_PRECONDITION if files could not be written there.
        """
        for model, logging_ in wanted.items():
            directory = os.path.dirname(logging_.filename_prefix)
            problem = ""
            try:
                os.makedirs(directory, exist_ok=True)
            except OSError as error:
                problem = error.strerror or str(error)
            if not problem and not os.access(directory, os.W_OK | os.X_OK):
                problem = "Permission denied"
            if problem:
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    f"Requests of model {model} cannot be recorded under {logging_.filename_prefix}: "
                    f"{directory}: {problem}. The server must be able to write there.",
                )

    def apply(self, wanted: Mapping[str, RequestLogging]) -> None:
        """Record as `wanted` says, by model, from now on. One call at a time.

        Models with one prefix share its files. What is not wanted any more is written to its end.
        """
        prefixes = {logging_.filename_prefix for logging_ in wanted.values()}
        files = {prefix: found for prefix, found in self._files.items() if prefix in prefixes}
        for prefix in prefixes - files.keys():
            files[prefix] = _FileSet(prefix + self._suffix, self._options, self._counter)
        gone = [found for prefix, found in self._files.items() if prefix not in prefixes]
        self._files = files
        self._recorders = {
            model: ModelRecorder(files[logging_.filename_prefix], logging_.sampling_rate)
            for model, logging_ in wanted.items()
            if logging_.sampling_rate > 0
        }
        self.active = bool(self._recorders)
        self.when_changed()
        for found in gone:
            found.close(time.monotonic() + _CLOSE_SECONDS)

    def close(self, deadline: float) -> None:
        """Write what waits and finish all files, by `deadline` (monotonic)."""
        for found in self._files.values():
            found.close(deadline)
