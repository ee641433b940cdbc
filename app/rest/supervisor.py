"""gunicorn, embedded: the parent process that keeps one worker alive.

The parent owns the ports, starts the worker again when it dies, and turns SIGTERM into a drain.
It never imports TensorFlow.
"""

from __future__ import annotations

import logging
import mmap
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger

from app.lifecycle.black_box import BlackBox
from app.options import Options
from app.rest.ports import stop_listening
from app.rest.worker import Serving, Worker

logger = logging.getLogger(__name__)

FAILED_START = 255
"""The exit status of a start that failed, TensorFlow Serving's."""

# What the parent allows beyond the drain for closing the models before it kills the worker.
_CLOSING_SECONDS = 1.5
# A worker that dies so soon was not worth starting at once; the pause doubles up to the longest.
_SHORT_LIFE_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 30.0


class WorkerState:
    """How far the worker has come, in memory that parent and worker share."""

    def __init__(self) -> None:
        """A worker that has not come far."""
        self._shared = mmap.mmap(-1, 2)

    def reset(self) -> None:
        """A new worker begins."""
        self._shared[:] = b"\0\0"

    def is_serving(self) -> None:
        """The worker answers requests."""
        self._shared[0] = 1

    def failure_was_told(self) -> None:
        """The worker has printed why it could not start."""
        self._shared[1] = 1

    @property
    def served(self) -> bool:
        """Whether the worker ever answered requests."""
        return bool(self._shared[0])

    @property
    def told(self) -> bool:
        """Whether the user knows why the worker could not start."""
        return bool(self._shared[1])


class _Logger(Logger):  # type: ignore[misc] # gunicorn has no types
    """gunicorn's log in ours: what it says from warnings on."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = []
        self.error_log.propagate = True


class _Application(BaseApplication):  # type: ignore[misc] # gunicorn has no types
    """What gunicorn is told, and what the worker needs to know."""

    def __init__(self, options: Options, make_server: Callable[[Options, BlackBox], Serving]) -> None:
        self.options = options
        self.make_server = make_server
        self.drain_seconds = options.drain_seconds
        self.worker_state = WorkerState()
        self.black_box = BlackBox()
        super().__init__()

    def load_config(self) -> None:
        settings = {
            "worker_class": Worker,
            "workers": 1,
            # A load may take minutes and a model may block the loop: only death means death.
            "timeout": 0,
            "graceful_timeout": int(self.drain_seconds + _CLOSING_SECONDS),
            "keepalive": 75,
            "logger_class": _Logger,
            "loglevel": "warning",
            "control_socket_disable": True,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return None  # the worker makes the application, after the load


class _Arbiter(Arbiter):  # type: ignore[misc] # gunicorn has no types
    """gunicorn's parent, with sockets that are bound but do not listen, and TFS's exit status."""

    def __init__(self, application: _Application, listeners: Sequence[socket.socket]) -> None:
        super().__init__(application)
        self.LISTENERS = list(listeners)
        self._rest_sockets = list(listeners)
        self._ending = False
        self._spawned_at = self._not_before = 0.0
        self._short_lives = 0

    def start(self) -> None:
        sockets: list[Any] = self.LISTENERS
        # An empty list would make gunicorn bind its own default address.
        self.LISTENERS = sockets or [_NoSocket()]
        super().start()
        self.LISTENERS = sockets

    def signal(self, sig: int, frame: Any) -> None:
        # The second request to end is impatient.
        if self._ending and sig in (signal.SIGTERM, signal.SIGINT):
            sig = signal.SIGQUIT
        super().signal(sig, frame)

    def stop(self, graceful: bool = True) -> None:
        self._ending = True
        super().stop(graceful)

    def spawn_worker(self) -> Any:
        self.app.worker_state.reset()
        self._spawned_at = time.monotonic()
        return super().spawn_worker()

    def reap_workers(self) -> None:
        before = set(self.WORKERS)
        super().reap_workers()
        if self._ending or before == set(self.WORKERS):
            return
        for reserved in self._rest_sockets:
            stop_listening(reserved)
        findings = self.app.black_box.find()
        if not self.app.worker_state.served and not findings.loading:
            raise HaltServer("The worker died before it could serve.", FAILED_START)
        self._not_before = time.monotonic() + self._pause()
        logger.error("The serving process died; starting it again. %s", findings)

    def _pause(self) -> float:
        """Seconds until the next worker: none after a long life, more and more after short ones."""
        short = time.monotonic() - self._spawned_at < _SHORT_LIFE_SECONDS
        self._short_lives = self._short_lives + 1 if short else 0
        return 0.0 if self._short_lives < 2 else min(_LONGEST_PAUSE_SECONDS, 2.0 ** (self._short_lives - 2))

    def manage_workers(self) -> None:
        if self.WORKERS or time.monotonic() >= self._not_before:
            super().manage_workers()

    # TensorFlow Serving reacts to no signal; of gunicorn's, ending and draining are useful here.
    def handle_hup(self) -> None:
        self.handle_term()

    def handle_int(self) -> None:
        self.handle_term()

    def handle_ttin(self) -> None:
        """Nothing: there is one worker."""

    handle_ttou = handle_usr1 = handle_usr2 = handle_winch = handle_ttin


class _NoSocket:
    """Stands for "no REST port" while gunicorn starts."""

    def __str__(self) -> str:
        return "no REST port"


def supervise(
    options: Options, sockets: Sequence[socket.socket], make_server: Callable[[Options, BlackBox], Serving]
) -> int:
    """Run the server until it is told to end.

    Args:
        options: the flags.
        sockets: bound sockets for REST, none to do without; the worker listens on them.
        make_server: called in the worker process.

    Returns:
        The exit status: 0 after a drain, 255 for a start that failed.
    """
    application = _Application(options, make_server)
    arbiter = _Arbiter(application, sockets)
    try:
        arbiter.run()
    except SystemExit as end:
        if not end.code:
            return 0
        if not application.worker_state.told:
            print(
                "Failed to start server. Error: INTERNAL: the serving process died before it could answer "
                "requests; the log above says more.",
                flush=True,
            )
        return FAILED_START
    return 0
