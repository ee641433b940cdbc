"""The method table over HTTP/2: listens on a port, a UNIX socket or both, on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import uvloop

from app.admission import Admission
from app.errors import Code, ServingError
from app.options import Options
from app.placement import Placement
from app.rpc.access import Access
from app.rpc.addresses import authority
from app.rpc.channel_arguments import channel_arguments
from app.rpc.http2.adapters import adapted
from app.rpc.http2.limits import limits_of
from app.rpc.http2.protocol import Http2Protocol
from app.rpc.http2.service import Service
from app.rpc.method import Table
from app.telemetry.observer import Observer

logger = logging.getLogger(__name__)

_BACKLOG = 2048
# How long the last bytes to a client may take once its calls are done.
_CLOSE_SECONDS = 1.0
T = TypeVar("T")


class Http2Server:
    """Listens from `start` to `stop`."""

    def __init__(
        self,
        table: Table,
        options: Options,
        observer: Observer | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        access: Access | None = None,
        host: str = "0.0.0.0",
        admission: Admission | None = None,
    ) -> None:
        """Prepare a server; nothing is bound yet.

        Args:
            table: the methods.
            options: of the server.
            observer: sees the unary calls.
            tls: for encrypted connections, to the port and the socket; `h2` must be among its ALPN
                protocols. Whether clients need a certificate is its matter too.
            access: asked about every call; all are let in if None.
            host: the IP address to listen on.
            admission: of calls to models and of connections; all are taken on if None.
        """
        self._access = access
        self._host = host
        self._stopping = asyncio.Event()
        self._table = adapted(table, self._stopping)
        self._options = options
        self._observer = observer or Observer()
        self._tls = tls
        self._admission = admission
        arguments = channel_arguments(options.grpc_channel_arguments, options.max_connections)
        self._limits = limits_of(arguments)
        self._connections: set[Http2Protocol] = set()
        self._servers: list[asyncio.Server] = []
        self._own_loop: _LoopThread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._threads = ThreadPoolExecutor(options.grpc_max_threads, thread_name_prefix="ferry-grpc")

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Bind, listen and serve. Not to be called in the loop's thread.

        Args:
            loop: a running event loop to serve on; None makes one, in a thread of its own.

        Raises:
            ServingError: UNAVAILABLE if an address cannot be bound.
        """
        if loop is None:
            self._own_loop = _LoopThread()
            loop = self._own_loop.loop
        self._loop = loop
        try:
            self._on_loop(self._listen(loop))
        except ServingError:
            self.stop(0)
            raise

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        count = self._options.grpc_max_threads
        service = Service(
            self._table,
            self._limits,
            Placement(),
            self._threads,
            count,
            loop,
            access=self._access,
            observer=self._observer,
            admission=self._admission,
        )
        make = partial(Http2Protocol, service, self._connections)
        port, path = self._options.port, self._options.grpc_socket_path
        sockets = []
        with contextlib.ExitStack() as unless_served:
            if port:
                bound = _bind(self._host, port, share=self._limits.share_port)
                sockets.append(unless_served.enter_context(bound))
            if path:
                sockets.append(unless_served.enter_context(_bind_path(path)))
            unless_served.pop_all()
        for bound in sockets:
            if bound.family == socket.AF_UNIX:
                server = await loop.create_unix_server(make, sock=bound, ssl=self._tls)
            else:
                server = await loop.create_server(make, sock=bound, ssl=self._tls)
            self._servers.append(server)
        self._ticking = loop.create_task(self._tick())
        if port:
            logger.info("Running gRPC ModelServer at %s ...", authority(self._host, port))
        if path:
            logger.info("Running gRPC ModelServer at UNIX socket %s ...", path)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._limits.tick_seconds)
            for protocol in list(self._connections):
                protocol.tick()

    def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, wait up to `grace_seconds` for running ones, then cancel them."""
        if self._loop is not None:
            self._on_loop(self._drain(time.monotonic() + grace_seconds))
        if self._own_loop is not None:
            self._own_loop.close()
        self._loop = self._own_loop = None
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _drain(self, deadline: float) -> None:
        self._stopping.set()
        for server in self._servers:
            server.close()
        if self._servers and self._options.grpc_socket_path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._options.grpc_socket_path)
        self._servers.clear()
        for protocol in list(self._connections):
            protocol.drain()
        while self._connections and time.monotonic() < deadline:
            await asyncio.sleep(min(0.01, max(0.0, deadline - time.monotonic())))
        if self._ticking is not None:
            self._ticking.cancel()
        for protocol in list(self._connections):
            protocol.kill()
        await asyncio.sleep(0)


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="ferry-http2", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def close(self) -> None:
        """End it, with what is left of its tasks."""

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def _bind(host: str, port: int, *, share: bool) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(share))
    try:
        bound.bind((host, port))
        bound.listen(_BACKLOG)
    except OSError:
        bound.close()
        raise ServingError(
            Code.UNAVAILABLE, f"Cannot listen for gRPC on {authority(host, port)}: address in use."
        ) from None
    return bound


def _bind_path(path: str) -> socket.socket:
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.stat(path).st_mode):  # a server that is gone left it
            os.unlink(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(path)
        bound.listen(_BACKLOG)
    except OSError:
        bound.close()
        raise ServingError(
            Code.UNAVAILABLE,
            f"Cannot listen for gRPC on unix:{path}: its directory must exist and be writable.",
        ) from None
    return bound
