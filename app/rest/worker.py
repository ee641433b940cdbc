"""The worker process: uvicorn's HTTP server under gunicorn, around a `Server`.

gunicorn forks the worker; the worker makes the Server, waits until the models are there, listens,
and on SIGTERM drains. TensorFlow is imported here only, never in gunicorn's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NoReturn, Protocol

import uvicorn
from uvicorn_worker import UvicornWorker

from app.errors import ServingError
from app.rest import probe_socket
from app.rest.pages import Page
from app.rest.ports import beside, prepare_to_listen
from app.workers.share import share_of

logger = logging.getLogger(__name__)

# gunicorn's exit code for "do not start me again".
_BOOT_ERROR = 3
_BACKLOG = 2048
_DRAIN_LOOK_SECONDS = 0.05
_NEVER_SECONDS = 10**8
_TICKS_A_SECOND = 10  # uvicorn's


class Serving(Protocol):
    """What the worker runs: `app.server.Server`.

    Attributes:
        rest: the ASGI application; it is asked for once `start` is done.
        http_protocol: makes the protocol of each of its connections, which `tick` once a second.
        rest_tls: for encrypted connections to it; None for plain ones.
        probes: what health checks are told without TLS.
    """

    rest: Any
    rest_tls: ssl.SSLContext | None
    http_protocol: Any
    probes: Mapping[str, Page]

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Load, then answer gRPC, perhaps on `loop`; raises ServingError."""

    def drain(self, deadline: float) -> None:
        """Let gRPC calls finish until `deadline`."""

    def stop(self) -> None:
        """Close everything."""


class Worker(UvicornWorker):  # type: ignore[misc] # its package has no types
    """Runs one `Server` from its load to the end of its drain."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": "httptools",
        "ws": "none",
        "lifespan": "off",  # start and stop are the worker's own, see _serve
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "backlog": _BACKLOG,
    }

    def __init__(self, *arguments: Any, **more: Any) -> None:
        """Made by gunicorn's parent."""
        super().__init__(*arguments, **more)
        # Its base gives uvicorn's log the handlers of gunicorn's, which has none: it is ours too.
        error_log = logging.getLogger("uvicorn.error")
        error_log.handlers = []
        error_log.propagate = True

    async def _serve(self) -> None:
        """Load, serve, drain; each ends early on SIGTERM."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGQUIT, os._exit, 0)
        server = await self._started_server(stop)
        if server is None:
            # A load cannot be interrupted, and nothing was accepted: leave without ceremony.
            sys.stderr.flush()
            os._exit(0)
        self.config.app = server.rest
        self.config.http = server.http_protocol
        self.config.timeout_keep_alive = _NEVER_SECONDS  # connections watch that themselves
        if self.app.crew is not None:
            self.sockets: list[socket.socket] = list(map(beside, self.sockets))
        await _HttpServer(self, server, stop).serve(self.sockets)
        await asyncio.to_thread(server.stop)
        # A model that outran the drain still holds its thread, which Python would wait for.
        logging.shutdown()
        os._exit(0)

    def _start(self, loop: asyncio.AbstractEventLoop) -> Serving:
        place = self.app.place
        crew = self.app.crew
        options = share_of(self.app.options, place.index)
        server: Serving = self.app.make_server(options, place.black_box, crew)
        server.start(loop)
        return server

    async def _started_server(self, stop: asyncio.Event) -> Serving | None:
        """A server whose model is loaded; None if a signal came first."""
        starting = asyncio.create_task(asyncio.to_thread(self._start, asyncio.get_running_loop()))
        stopping = asyncio.create_task(stop.wait())
        while not starting.done():
            if stop.is_set() or self.is_orphan():
                return None
            await asyncio.wait({starting, stopping}, timeout=1, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        try:
            return starting.result()
        except ServingError as error:
            return self.fail(str(error))
        except Exception as error:
            logger.exception("The server could not be started")
            return self.fail(f"INTERNAL: {type(error).__name__}: {error}")

    def fail(self, status: str) -> NoReturn:
        """Say on standard output why the start failed, as TensorFlow Serving does, and end."""
        if not self.app.failure_was_told:
            self.app.place.state.failure_was_told()
            print(f"Failed to start server. Error: {status}", flush=True)
        # Threads may still be in a load: do not wait for them.
        os._exit(_BOOT_ERROR)

    def is_orphan(self) -> bool:
        """Whether the parent died; a worker without one would hold the ports of a server that is gone."""
        return os.getppid() != int(self.ppid)

    def announce(self) -> None:
        """Say, to the parent and to the log, that requests are answered."""
        self.app.place.state.is_serving()
        for sock in self.sockets:
            logger.info("Exporting HTTP/REST API at:localhost:%d ...", sock.getsockname()[1])


class _HttpServer(uvicorn.Server):
    """uvicorn's server with Ferry's drain: REST and gRPC finish side by side."""

    def __init__(self, worker: Worker, server: Serving, stop: asyncio.Event) -> None:
        super().__init__(worker.config)
        self._worker = worker
        self._server = server
        self._stop = stop
        self._probes: asyncio.Server | None = None
        self._probe_port = 0

    async def startup(self, sockets: list[Any] | None = None) -> None:
        self.config.ssl = self._server.rest_tls
        for sock in sockets or ():
            prepare_to_listen(sock)
            if self.config.ssl is not None:
                self._probe_port = sock.getsockname()[1]
                await self._serve_probes()
        await super().startup(sockets)
        self._worker.announce()

    async def _serve_probes(self) -> None:
        try:
            bound = probe_socket.bind(self._probe_port)
        except ServingError as error:
            if self._worker.app.crew is None:
                self._worker.fail(str(error))
            return  # another worker has it, and speaks for all; when it ends, the next one to look takes over
        self._probes = await probe_socket.serve(bound, self._server.probes)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The worker has its own handlers already; uvicorn's would raise the signal again at the end.
        yield

    async def on_tick(self, counter: int) -> bool:
        if self._stop.is_set() or self._worker.is_orphan():
            self.should_exit = True
        if counter % _TICKS_A_SECOND == 0:
            now = time.monotonic()
            connections: list[Any] = list(self.server_state.connections)
            for connection in connections:
                connection.tick(now)
            if self._probe_port and self._probes is None and not self.should_exit:
                await self._serve_probes()
        return bool(await super().on_tick(counter))

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        seconds = self._worker.app.drain_seconds
        deadline = time.monotonic() + seconds
        for listener in (*self.servers, *filter(None, [self._probes])):
            listener.close()
        draining = asyncio.create_task(asyncio.to_thread(self._server.drain, deadline))
        # Connections that are open stay so while requests run: a probe learns of the drain, and a request
        # that was on its way is answered. Each answer ends its connection.
        while self.server_state.tasks and time.monotonic() < deadline:
            await asyncio.sleep(_DRAIN_LOOK_SECONDS)
        self.config.timeout_graceful_shutdown = max(1, round(deadline - time.monotonic()))
        await super().shutdown(sockets)
        await draining
