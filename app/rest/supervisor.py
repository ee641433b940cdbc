"""gunicorn, embedded: the parent process that keeps the worker, or several, alive.

The parent owns the ports, starts a worker again when it dies, and turns SIGTERM into a drain.
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
from app.workers.crew import Crew

logger = logging.getLogger(__name__)

MakeServer = Callable[[Options, BlackBox, Crew | None], Serving]

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


class Place:
    """What the parent has for one worker at a time, and for its successors.

    Attributes:
        index: its number, from 0 on.
        state: how far the worker has come.
        black_box: what it does.
    """

    def __init__(self, index: int, black_box: BlackBox) -> None:
        """For the worker `index`."""
        self.index = index
        self.state = WorkerState()
        self.black_box = black_box


class _Logger(Logger):  # type: ignore[misc] # gunicorn has no types
    """gunicorn's log in ours: what it says from warnings on."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = []
        self.error_log.propagate = True


class _Application(BaseApplication):  # type: ignore[misc] # gunicorn has no types
    """What gunicorn is told, and what the worker needs to know."""

    def __init__(self, options: Options, make_server: MakeServer) -> None:
        self.options = options
        self.make_server = make_server
        self.drain_seconds = options.drain_seconds
        self.crew = Crew(options.server_workers) if options.server_workers > 1 else None
        box = BlackBox()
        self.places = [Place(0, box)]
        self.places += [Place(index, BlackBox(beside=box)) for index in range(1, options.server_workers)]
        self.place = self.places[0]  # of the worker that is made next, and in a worker its own
        super().__init__()

    @property
    def failure_was_told(self) -> bool:
        """Whether the user knows why some worker could not start."""
        return any(place.state.told for place in self.places)

    def take(self, place: Place) -> None:
        """The next worker gets this place."""
        self.place = place
        place.state.reset()
        if self.crew is not None:
            self.crew.index = place.index

    def load_config(self) -> None:
        settings = {
            "worker_class": Worker,
            "workers": self.options.server_workers,
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
        self._held: dict[int, Place] = {}  # by process
        self._spawned_at: dict[int, float] = {}  # by place
        self._not_before = 0.0
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
        place = next(place for place in self.app.places if place not in self._held.values())
        self.app.take(place)
        self._spawned_at[place.index] = time.monotonic()
        process = super().spawn_worker()
        self._held[process] = place
        return process

    def reap_workers(self) -> None:
        while True:
            try:
                super().reap_workers()
                break
            except HaltServer:  # it could not start; if others serve, they go on
                if self._ending or not self._others_serve():
                    raise
        gone = {process: place for process, place in self._held.items() if process not in self.WORKERS}
        for process, place in gone.items():
            del self._held[process]
            if not self._ending:
                self._died(process, place)

    def _others_serve(self) -> bool:
        return any(place.state.served for process, place in self._held.items() if process in self.WORKERS)

    def _died(self, process: int, place: Place) -> None:
        findings = place.black_box.find()
        if self.app.crew is None:
            for reserved in self._rest_sockets:
                stop_listening(reserved)
        else:
            self.app.crew.lay_to_rest(place.index)
        if not place.state.served and not findings.loading and not self._others_serve():
            raise HaltServer("The worker died before it could serve.", FAILED_START)
        self._not_before = time.monotonic() + self._pause(place)
        who = "The serving process" if self.app.crew is None else f"Worker {place.index} (process {process})"
        logger.error("%s died; starting it again. %s", who, findings)

    def _pause(self, place: Place) -> float:
        """Seconds until the next worker: none after a long life, more and more after short ones."""
        short = time.monotonic() - self._spawned_at[place.index] < _SHORT_LIFE_SECONDS
        self._short_lives = self._short_lives + 1 if short else 0
        return 0.0 if self._short_lives < 2 else min(_LONGEST_PAUSE_SECONDS, 2.0 ** (self._short_lives - 2))

    def manage_workers(self) -> None:
        if len(self.WORKERS) == self.num_workers or time.monotonic() >= self._not_before:
            super().manage_workers()

    # TensorFlow Serving reacts to no signal; of gunicorn's, ending and draining are useful here.
    def handle_hup(self) -> None:
        self.handle_term()

    def handle_int(self) -> None:
        self.handle_term()

    def handle_ttin(self) -> None:
        """Nothing: there are as many workers as the flag says."""

    handle_ttou = handle_usr1 = handle_usr2 = handle_winch = handle_ttin


class _NoSocket:
    """Stands for "no REST port" while gunicorn starts."""

    def __str__(self) -> str:
        return "no REST port"


def supervise(options: Options, sockets: Sequence[socket.socket], make_server: MakeServer) -> int:
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
        if not application.failure_was_told:
            print(
                "Failed to start server. Error: INTERNAL: the serving process died before it could answer "
                "requests; the log above says more.",
                flush=True,
            )
        return FAILED_START
    return 0
