"""Reads the model config file again and again, for `--model_config_file_poll_wait_seconds`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from app.errors import ServingError

logger = logging.getLogger(__name__)


class ConfigPoller:
    """One thread that calls `reload` at once and then at every interval; what fails is logged once."""

    def __init__(self, reload: Callable[[], None], seconds: float) -> None:
        """Prepare the thread.

        Args:
            reload: reads and applies the file; raises ServingError.
            seconds: between two calls.
        """
        self._reload = reload
        self._seconds = seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ferry-config", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; a reload under way, which may wait for a model, is not waited for."""
        self._stopping.set()

    def _run(self) -> None:
        reported = ""
        while not self._stopping.is_set():
            problem = ""
            try:
                self._reload()
            except ServingError as error:
                problem = str(error)
            except Exception as error:  # the next reading may work
                logger.exception("Reading the model config failed unexpectedly")
                problem = repr(error)
            if problem and problem != reported:
                logger.error("PollFilesystemAndReloadConfig failed to ReloadConfig: %s", problem)
            reported = problem
            self._stopping.wait(self._seconds)
