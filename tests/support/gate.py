"""Requests that are answered when a test says so, for what happens while one is running."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import requests

from tests.support.process import ServerProcess, wait_until


class Gate:
    """One REST request, sent from a thread, to a model of `models.save_gated`; made once the model runs.

    Attributes:
        answers: what it was answered: the JSON, or the error of the client.
        expected: the answer of a run that was let through.
    """

    def __init__(self, server: ServerProcess, directory: Path, path: str = ":predict") -> None:
        """Send it to the model's `path`, and wait until it runs; `directory` is new and the gate's alone."""
        directory.mkdir()
        os.mkfifo(directory / "gate")
        self.answers: list[Any] = []
        self.expected = {"outputs": str(directory)}
        self._directory = directory
        self._thread = threading.Thread(target=self._send, args=(server.url(path),), daemon=True)
        self._thread.start()
        wait_until(lambda: self.answers or (directory / "entered").exists(), "the request is running")
        assert self.answers == [], "the request is running"

    def _send(self, url: str) -> None:
        try:
            body = {"inputs": str(self._directory)}
            self.answers.append(requests.post(url, json=body, timeout=300).json())
        except requests.RequestException as error:
            self.answers.append(error)

    def open(self) -> None:
        """Let the run end, and wait for the answer."""
        # Without O_NONBLOCK this would wait for a run that may have failed.
        descriptor = os.open(self._directory / "gate", os.O_RDONLY | os.O_NONBLOCK)
        try:
            self.join()
        finally:
            os.close(descriptor)

    def join(self) -> None:
        """Wait for the answer, or for the end of the connection."""
        self._thread.join()
