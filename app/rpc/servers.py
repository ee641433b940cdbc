"""The gRPC ports: which methods are on which, over which transport, with which security."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from app.admission import Admission
from app.lifecycle.readiness import Readiness
from app.options import Options
from app.rpc import health, profiler, reflection
from app.rpc.access import Access
from app.rpc.grpcio_transport import GrpcServer
from app.rpc.http2.transport import Http2Server
from app.rpc.method import AnyMethod, Table
from app.rpc.methods import services
from app.rpc.profiler import Profiler
from app.security.security import Security
from app.security.tls import LiveContext
from app.telemetry.observer import Observer

logger = logging.getLogger(__name__)

RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
_MODEL_SERVICE = "/tensorflow.serving.ModelService/"
# A profile and a reload hold a thread each; status requests go on beside them.
_ADMIN_THREADS = 4


class GrpcServers:
    """The server on the main port, and the one on the admin port if there is one."""

    def __init__(
        self,
        api: Table,
        profiles: Profiler,
        readiness: Readiness,
        options: Options,
        security: Security,
        *,
        observer: Observer | None = None,
        admission: Admission | None = None,
    ) -> None:
        """Prepare to serve; nothing is bound yet.

        Args:
            api: the methods of TensorFlow Serving's own services.
            profiles: serves the profiler, if the flags want it.
            readiness: for health checks.
            options: of the server.
            security: TLS and tokens, of all ports.
            observer: sees the unary calls to all ports.
            admission: of calls to models and of connections, on all ports.
        """
        self._secure = security.grpc_tls is not None
        make = partial(_server, security=security, observer=observer, admission=admission)
        table = _with_tools(main_table(api, profiles, options), readiness, options)
        self._servers = [make(table, options)]
        if options.admin_port:
            table = _with_tools(admin_table(api, profiles, options), readiness, options)
            alone = replace(
                options, port=options.admin_port, grpc_socket_path="", grpc_max_threads=_ADMIN_THREADS
            )
            self._servers.append(make(table, alone, host=options.admin_host))

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Listen on all ports.

        Args:
            loop: a running one, to share.

        Raises:
            ServingError: an address cannot be bound.
        """
        logger.info("Using %s", "SSL credentials" if self._secure else "InsecureServerCredentials")
        for server in reversed(self._servers):  # the main port last: it shows that all is there
            server.start(loop)

    def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, and wait for running ones, on all ports at the same time."""
        others = [threading.Thread(target=each.stop, args=(grace_seconds,)) for each in self._servers[1:]]
        for thread in others:
            thread.start()
        self._servers[0].stop(grace_seconds)
        for thread in others:
            thread.join()


def main_table(api: Table, profiles: Profiler, options: Options) -> Mapping[str, AnyMethod]:
    """What the main port serves: all, or what no admin port has."""
    if not options.admin_port:
        return {**_allowed(api, options), **_profiler(profiles, options)}
    return {path: method for path, method in api.items() if path != RELOAD}


def admin_table(api: Table, profiles: Profiler, options: Options) -> Mapping[str, AnyMethod]:
    """What the admin port serves: the profiler, and all of ModelService for those who reload and look."""
    allowed = _allowed(api, options)
    model = {path: method for path, method in allowed.items() if path.startswith(_MODEL_SERVICE)}
    return {**model, **_profiler(profiles, options)}


def _allowed(api: Table, options: Options) -> Table:
    return {path: method for path, method in api.items() if path != RELOAD or options.enable_reload_config}


def _profiler(profiles: Profiler, options: Options) -> Table:
    return profiles.methods() if options.enable_profiler else {}


def _with_tools(table: Mapping[str, AnyMethod], readiness: Readiness, options: Options) -> Table:
    """`table` with health checks and reflection, if the flags want them."""
    methods = dict(table)
    if options.enable_grpc_healthcheck_service:
        names = (*services(methods), health.SERVICE, *reflection.SERVICES)
        methods |= health.health_methods(readiness, names)
    if options.enable_grpc_reflection:
        files = [profiler.descriptor()] if profiler.SERVICE in services(methods) else []
        methods |= reflection.reflection_methods(services(methods), files)
    return methods


def _server(
    methods: Table,
    options: Options,
    *,
    security: Security,
    observer: Observer | None,
    admission: Admission | None,
    host: str = "0.0.0.0",
) -> GrpcServer | Http2Server:
    """What `--grpc_transport` names; the command line has checked it."""
    access = None if security.guard is None else Access(security.guard)
    tls = security.grpc_tls
    if options.grpc_transport == "http2":
        context = None if tls is None else LiveContext.of(tls, "h2")
        return Http2Server(
            methods, options, observer, tls=context, access=access, host=host, admission=admission
        )
    return GrpcServer(methods, options, observer, tls=tls, access=access, host=host, admission=admission)
