"""The method table over grpcio: a server in threads of its own, beside the REST event loop."""

from __future__ import annotations

import asyncio
import logging
from concurrent import futures

import grpc

from app.admission import Admission
from app.errors import Code, ServingError
from app.options import Options
from app.rpc.access import Access
from app.rpc.addresses import authority
from app.rpc.channel_arguments import channel_arguments
from app.rpc.grpcio_credentials import credentials
from app.rpc.grpcio_table import TableHandler
from app.rpc.method import Table
from app.security.tls import WatchedTls
from app.telemetry.observer import Observer

logger = logging.getLogger(__name__)


class GrpcServer:
    """Listens from `start` to `stop`."""

    def __init__(
        self,
        methods: Table,
        options: Options,
        observer: Observer | None = None,
        *,
        tls: WatchedTls | None = None,
        access: Access | None = None,
        host: str = "0.0.0.0",
        admission: Admission | None = None,
    ) -> None:
        """Prepare a server; nothing is bound yet.

        Args:
            methods: the table.
            options: of the server.
            observer: sees the unary calls.
            tls: for encrypted connections, to the port and the socket.
            access: asked about every call; all are let in if None.
            host: the IP address to listen on.
            admission: of calls to models; all are taken on if None.
        """
        self._options = options
        threads = futures.ThreadPoolExecutor(options.grpc_max_threads, thread_name_prefix="ferry-grpc")
        self._handler = TableHandler(methods, threads, access, admission, observer or Observer())
        self._tls = tls
        self._host = host
        arguments = channel_arguments(options.grpc_channel_arguments, options.max_connections)
        self._server = grpc.server(threads, handlers=[self._handler], options=list(arguments.items()))

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Bind, listen and serve.

        Args:
            loop: of the process; grpcio does without it.

        Raises:
            ServingError: UNAVAILABLE if an address cannot be bound.
        """
        del loop
        address = authority(self._host, self._options.port)
        if self._options.port:
            self._add(address)
        if self._options.grpc_socket_path:
            self._add(f"unix:{self._options.grpc_socket_path}")
        self._server.start()
        if self._options.port:
            logger.info("Running gRPC ModelServer at %s ...", address)
        if self._options.grpc_socket_path:
            logger.info("Running gRPC ModelServer at UNIX socket %s ...", self._options.grpc_socket_path)

    def _add(self, address: str) -> None:
        try:
            if self._tls is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, credentials(self._tls))
        except RuntimeError:
            bound = 0
        if not bound and not address.startswith("unix:"):
            raise ServingError(Code.UNAVAILABLE, f"Cannot listen for gRPC on {address}: address in use.")
        if not bound:
            raise ServingError(
                Code.UNAVAILABLE,
                f"Cannot listen for gRPC on {address}: its directory must exist and be writable.",
            )

    def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, wait up to `grace_seconds` for running ones, then cancel them.

        Open dialogues end at once, for they have no end of their own.
        """
        stopped = self._server.stop(grace_seconds)
        self._handler.end_dialogues()
        stopped.wait()
