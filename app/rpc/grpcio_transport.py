"""The method table over grpcio: a server in threads of its own, beside the REST event loop."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import grpc

from app.errors import Code, ServingError
from app.options import Options
from app.rpc.methods import Call, Method, wire_message

logger = logging.getLogger(__name__)

_DIGITS = re.compile(r"[+-]?[0-9]{1,10}")
# grpcio gives a call without a deadline one in the far future. Of real ones, TensorFlow Serving takes
# no more milliseconds than an int32 holds.
_NO_DEADLINE_SECONDS = (2**31 - 1) / 1000
_LARGEST_MESSAGE = 2**31 - 1
_STATUS_CODES = {status.value[0]: status for status in grpc.StatusCode}


class GrpcServer:
    """Listens from `start` to `stop`."""

    def __init__(self, methods: Mapping[str, Method], options: Options) -> None:
        """Prepare a server; nothing is bound yet."""
        self._options = options
        self._server = grpc.server(
            futures.ThreadPoolExecutor(options.grpc_max_threads, thread_name_prefix="ferry-grpc"),
            handlers=[_TableHandler(methods)],
            options=_server_options(options),
        )

    def start(self) -> None:
        """Bind, listen and serve.

        Raises:
            ServingError: UNAVAILABLE if an address cannot be bound.
        """
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

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._handlers = {
            path: grpc.unary_unary_rpc_method_handler(
                _behaviour(path, method),
                request_deserializer=method.request.FromString,
                response_serializer=_serialize,
            )
            for path, method in methods.items()
        }

        self._unknown = grpc.unary_unary_rpc_method_handler(_unimplemented)

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method, self._unknown)


def _unimplemented(request: bytes, context: Any) -> None:
    del request
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "")


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _behaviour(path: str, method: Method) -> Any:
    def call(request: Any, context: Any) -> Any:
        remaining = context.time_remaining()
        set_by_client = remaining is not None and remaining < _NO_DEADLINE_SECONDS
        deadline = time.monotonic() + remaining if set_by_client else None
        try:
            return method.handle(request, Call(deadline))
        except ServingError as error:
            context.abort(_STATUS_CODES[int(error.code)], wire_message(error))
        except Exception as error:
            logger.exception("%s failed unexpectedly", path)
            context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")

    return call


def _server_options(options: Options) -> list[tuple[str, int | str]]:
    arguments: dict[str, int | str] = {
        "grpc.max_receive_message_length": _LARGEST_MESSAGE,
        "grpc.max_send_message_length": -1,
    }
    for item in filter(None, options.grpc_channel_arguments.split(",")):
        key, _, value = item.partition("=")
        is_int32 = _DIGITS.fullmatch(value) and -(1 << 31) <= int(value) < 1 << 31
        arguments[key] = int(value) if is_int32 else value
    return list(arguments.items())
