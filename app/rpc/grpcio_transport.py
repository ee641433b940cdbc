"""The method table over grpcio: a server in threads of its own, beside the REST event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

from app.errors import Code, ServingError
from app.options import Options
from app.rpc.channel_arguments import channel_arguments
from app.rpc.grpcio_streams import answers_of
from app.rpc.methods import Call, Method, StreamMethod, Table, wire_message

logger = logging.getLogger(__name__)

# grpcio gives a call without a deadline one in the far future. Of real ones, TensorFlow Serving takes
# no more milliseconds than an int32 holds.
_NO_DEADLINE_SECONDS = (2**31 - 1) / 1000
_STATUS_CODES = {status.value[0]: status for status in grpc.StatusCode}


class GrpcServer:
    """Listens from `start` to `stop`."""

    def __init__(self, methods: Table, options: Options) -> None:
        """Prepare a server; nothing is bound yet."""
        self._options = options
        self._server = grpc.server(
            futures.ThreadPoolExecutor(options.grpc_max_threads, thread_name_prefix="ferry-grpc"),
            handlers=[_TableHandler(methods)],
            options=list(channel_arguments(options.grpc_channel_arguments).items()),
        )

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Bind, listen and serve.

        Args:
            loop: of the process; grpcio does without it.

        Raises:
            ServingError: UNAVAILABLE if an address cannot be bound.
        """
        del loop
        if self._options.port:
            self._add(f"0.0.0.0:{self._options.port}")
        if self._options.grpc_socket_path:
            self._add(f"unix:{self._options.grpc_socket_path}")
        self._server.start()
        if self._options.port:
            logger.info("Running gRPC ModelServer at 0.0.0.0:%d ...", self._options.port)
        if self._options.grpc_socket_path:
            logger.info("Running gRPC ModelServer at UNIX socket %s ...", self._options.grpc_socket_path)

    def _add(self, address: str) -> None:
        try:
            bound = self._server.add_insecure_port(address)
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
        """Refuse new calls, wait up to `grace_seconds` for running ones, then cancel them."""
        self._server.stop(grace_seconds).wait()


class _TableHandler(grpc.GenericRpcHandler):  # type: ignore[type-arg] # generic in its stubs only
    """Looks calls up in the table; what is not there is UNIMPLEMENTED, without a text."""

    def __init__(self, methods: Table) -> None:
        self._handlers = {path: _handler(path, method) for path, method in methods.items()}
        self._unknown = grpc.unary_unary_rpc_method_handler(_unimplemented)

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method, self._unknown)


def _unimplemented(request: bytes, context: Any) -> None:
    del request
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "")


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _handler(path: str, method: Method | StreamMethod) -> Any:
    decode = method.request.FromString
    if isinstance(method, StreamMethod):
        behaviour = _stream_behaviour(path, method)
        return grpc.stream_stream_rpc_method_handler(behaviour, decode, _serialize)
    return grpc.unary_unary_rpc_method_handler(_behaviour(path, method), decode, _serialize)


def _behaviour(path: str, method: Method) -> Any:
    def call(request: Any, context: Any) -> Any:
        with _errors_told(path, context):
            return method.handle(request, _call(context))

    return call


def _stream_behaviour(path: str, method: StreamMethod) -> Any:
    def call(requests: Any, context: Any) -> Any:
        with _errors_told(path, context):
            yield from answers_of(method, requests, context, _call(context))

    return call


def _call(context: Any) -> Call:
    remaining = context.time_remaining()
    set_by_client = remaining is not None and remaining < _NO_DEADLINE_SECONDS
    return Call(time.monotonic() + remaining if set_by_client else None)


@contextlib.contextmanager
def _errors_told(path: str, context: Any) -> Iterator[None]:
    try:
        yield
    except ServingError as error:
        context.abort(_STATUS_CODES[int(error.code)], wire_message(error))
    except Exception as error:
        logger.exception("%s failed unexpectedly", path)
        context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
