"""The method table over grpcio: a server in threads of its own, beside the REST event loop."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from app.errors import Code, ServingError
from app.options import Options
from app.rpc.channel_arguments import channel_arguments
from app.rpc.grpcio_streams import answers_of
from app.rpc.method import Call, DialogueMethod, Method, PushMethod, StreamMethod, Table, wire_message

logger = logging.getLogger(__name__)

# grpcio gives a call without a deadline one in the far future. Of real ones, TensorFlow Serving takes
# no more milliseconds than an int32 holds.
_NO_DEADLINE_SECONDS = (2**31 - 1) / 1000
# Dialogues hold a thread each for as long as their client likes. Those that come later wait.
_DIALOGUE_THREADS = 4
# A client that does not read blocks the one that sends to it.
_PUSH_THREADS = 4
_STATUS_CODES = {status.value[0]: status for status in grpc.StatusCode}


class GrpcServer:
    """Listens from `start` to `stop`."""

    def __init__(self, methods: Table, options: Options) -> None:
        """Prepare a server; nothing is bound yet."""
        self._options = options
        self._handler = _TableHandler(methods)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(options.grpc_max_threads, thread_name_prefix="ferry-grpc"),
            handlers=[self._handler],
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
        """Refuse new calls, wait up to `grace_seconds` for running ones, then cancel them.

        Open dialogues end at once, for they have no end of their own.
        """
        stopped = self._server.stop(grace_seconds)
        self._handler.end_dialogues()
        stopped.wait()


class _TableHandler(grpc.GenericRpcHandler):  # type: ignore[type-arg] # generic in its stubs only
    """Looks calls up in the table; what is not there is UNIMPLEMENTED, without a text."""

    def __init__(self, methods: Table) -> None:
        self._dialogues: set[Any] = set()  # the contexts of those that are open
        quick = futures.ThreadPoolExecutor(1, thread_name_prefix="ferry-grpc-quick")
        talking = futures.ThreadPoolExecutor(_DIALOGUE_THREADS, thread_name_prefix="ferry-grpc-talk")
        pushing = futures.ThreadPoolExecutor(_PUSH_THREADS, thread_name_prefix="ferry-grpc-push")
        self._handlers = {}
        for path, method in methods.items():
            if isinstance(method, Method):
                unary = _behaviour(path, method)
                if method.quick:
                    unary.experimental_thread_pool = quick
                # Bytes in and out: their number is counted beside the call.
                handler = grpc.unary_unary_rpc_method_handler(unary)
            elif isinstance(method, PushMethod):
                push = _push(method, pushing)
                push.experimental_non_blocking = True  # sends by a function, so no thread waits
                push.experimental_thread_pool = quick
                handler = grpc.unary_stream_rpc_method_handler(
                    push, request_deserializer=method.request.FromString, response_serializer=_serialize
                )
            elif isinstance(method, StreamMethod):
                handler = grpc.stream_stream_rpc_method_handler(
                    _stream(path, method), method.request.FromString, _serialize
                )
            else:
                talk = _talk(method, self._dialogues)
                talk.experimental_thread_pool = talking
                handler = grpc.stream_stream_rpc_method_handler(
                    talk, request_deserializer=method.request.FromString, response_serializer=_serialize
                )
            self._handlers[path] = handler
        self._unknown = grpc.unary_unary_rpc_method_handler(_unimplemented)

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method, self._unknown)

    def end_dialogues(self) -> None:
        for context in list(self._dialogues):
            context.cancel()


def _unimplemented(request: bytes, context: Any) -> None:
    del request
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "")


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _behaviour(path: str, method: Method) -> Any:
    traffic = method.traffic

    def call(data: bytes, context: Any) -> bytes | None:
        sent = 0
        traffic.begin()
        try:
            with _errors_told(path, context):
                answer = method.answer(data, _call(context))
                sent = len(answer)
                return answer
        finally:
            traffic.end(len(data), sent)
        return None

    return call


def _stream(path: str, method: StreamMethod) -> Any:
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
    except DecodeError:
        context.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")
    except Exception as error:
        logger.exception("%s failed unexpectedly", path)
        context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")


def _push(method: PushMethod, threads: futures.Executor) -> Any:
    def call(request: Any, context: Any, send: Any) -> None:
        unsubscribe = method.subscribe(request, Outbox(send, threads).put)
        if not context.add_callback(unsubscribe):  # the client is gone already
            unsubscribe()

    return call


class Outbox:
    """What is to be sent to one client, in order. grpcio's function to send blocks; `put` does not."""

    def __init__(self, send: Callable[[Any], None], threads: futures.Executor) -> None:
        """Send with `send`, in one of `threads` at a time."""
        self._send = send
        self._threads = threads
        self._lock = threading.Lock()
        self._waiting: collections.deque[Any] = collections.deque()
        self._sending = False

    def put(self, message: Any) -> None:
        """Send `message` after those before it."""
        with self._lock:
            self._waiting.append(message)
            if self._sending:
                return
            self._sending = True
        self._threads.submit(self._empty)

    def _empty(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._sending = False
                    return
                message = self._waiting.popleft()
            self._send(message)


def _talk(method: DialogueMethod, open_dialogues: set[Any]) -> Any:
    def call(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        open_dialogues.add(context)
        try:
            for request in requests:
                yield method.answer(request)
        finally:
            open_dialogues.discard(context)

    return call
