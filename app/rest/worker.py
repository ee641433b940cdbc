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
import sys
import time
from collections.abc import Iterator
from typing import Any, ClassVar, NoReturn, Protocol

import uvicorn
from uvicorn_worker import UvicornWorker

from app.errors import ServingError
from app.rest.ports import prepare_to_listen

logger = logging.getLogger(__name__)

# gunicorn's exit code for "do not start me again".
_BOOT_ERROR = 3
_BACKLOG = 2048
_DRAIN_LOOK_SECONDS = 0.05


class Serving(Protocol):
    """What the worker runs: `app.server.Server`.

    Attributes:
        rest: the ASGI application; it is asked for once `start` is done.
    """

    rest: Any

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
        "http": "app.rest.protocol:HttpProtocol",  # imports TensorFlow, so by its name
        "ws": "none",
        "lifespan": "off",  # start and stop are the worker's own, see _serve
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "backlog": _BACKLOG,
    }

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
        await _HttpServer(self, server, stop).serve(self.sockets)
        await asyncio.to_thread(server.stop)
        # A model that outran the drain still holds its thread, which Python would wait for.
        logging.shutdown()
        os._exit(0)

    def _start(self, loop: asyncio.AbstractEventLoop) -> Serving:
        server: Serving = self.app.make_server(self.app.options)
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
            return self._fail(str(error))
        except Exception as error:
            logger.exception("The server could not be started")
            return self._fail(f"INTERNAL: {type(error).__name__}: {error}")

    def _fail(self, status: str) -> NoReturn:
        """Say on standard output why the start failed, as TensorFlow Serving does, and end."""
        print(f"Failed to start server. Error: {status}", flush=True)
        self.app.worker_state.failure_was_told()
        # Threads may still be in a load: do not wait for them.
        os._exit(_BOOT_ERROR)

    def is_orphan(self) -> bool:
        """Whether the parent died; a worker without one would hold the ports of a server that is gone."""
        return os.getppid() != int(self.ppid)

    def announce(self) -> None:
        """Say, to the parent and to the log, that requests are answered."""
        self.app.worker_state.is_serving()
        for sock in self.sockets:
            logger.info("Exporting HTTP/REST API at:localhost:%d ...", sock.getsockname()[1])


class _HttpServer(uvicorn.Server):
    """uvicorn's server with Ferry's drain: REST and gRPC finish side by side."""

    def __init__(self, worker: Worker, server: Serving, stop: asyncio.Event) -> None:
        super().__init__(worker.config)
        self._worker = worker
        self._server = server
        self._stop = stop

    async def startup(self, sockets: list[Any] | None = None) -> None:
        for sock in sockets or ():
            prepare_to_listen(sock)
        await super().startup(sockets)
        self._worker.announce()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The worker has its own handlers already; uvicorn's would raise the signal again at the end.
        yield

    async def on_tick(self, counter: int) -> bool:
        if self._stop.is_set() or self._worker.is_orphan():
            self.should_exit = True
        return bool(await super().on_tick(counter))

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        seconds = self._worker.app.drain_seconds
        deadline = time.monotonic() + seconds
        for listener in self.servers:
            listener.close()
        draining = asyncio.create_task(asyncio.to_thread(self._server.drain, deadline))
        # Connections that are open stay so while requests run: a probe learns of the drain, and a request
        # that was on its way is answered. Each answer ends its connection.
        while self.server_state.tasks and time.monotonic() < deadline:
            await asyncio.sleep(_DRAIN_LOOK_SECONDS)
        self.config.timeout_graceful_shutdown = max(1, round(deadline - time.monotonic()))
        await super().shutdown(sockets)
        await draining
