"""Files that may change while the server runs: certificates, keys, tokens.

They are read again and again and compared by content. That needs no events, and works for secrets
that are swapped by symbolic links as well as for files that are written in place.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from app.errors import ServingError

logger = logging.getLogger(__name__)

T = TypeVar("T")

POLL_SECONDS = 2.0


class Watched(Generic[T]):
    """A value that is read from files; the last good one is in force.

    Attributes:
        value: in force. Read it once and use that: another thread may replace it.
    """

    def __init__(self, flag: str, read: Callable[[], T], check: Callable[[T], object]) -> None:
        """Read for the first time.

        Args:
            flag: that names the file, for the log.
            read: makes a value, cheaply; values are compared with `==`.
            check: refuses a new value that cannot be used.

        Raises:
            ServingError: of `read` and `check`.
        """
        self.value = read()
        check(self.value)
        self._flag = flag
        self._read = read
        self._check = check
        self._reported = ""

    def look(self) -> None:
        """Read again; what cannot be used is logged once and changes nothing."""
        problem = ""
        try:
            value = self._read()
            if value != self.value:
                self._check(value)
                self.value = value
                logger.info("--%s: what changed is in force.", self._flag)
        except ServingError as error:
            problem = str(error)
        except Exception as error:  # the next reading may work
            problem = f"{type(error).__name__}: {error}"
        if problem and problem != self._reported:
            logger.error("--%s: what was read before stays in force. %s", self._flag, problem)
        self._reported = problem


class Poller:
    """One thread that looks at all watched values; none without any."""

    def __init__(self, watched: Sequence[Watched[Any]], seconds: float = POLL_SECONDS) -> None:
        """Prepare to look every `seconds`."""
        self._watched = watched
        self._seconds = seconds
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin."""
        if self._watched:
            threading.Thread(target=self._run, name="ferry-secrets", daemon=True).start()

    def stop(self) -> None:
        """End after the look under way."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds):
            for watched in self._watched:
                watched.look()
