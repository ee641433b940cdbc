"""The method table over grpcio: a server in threads of its own, beside the REST event loop."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from app.admission import Admission
from app.errors import Code, ServingError
from app.options import Options
from app.rpc.access import Access
from app.rpc.addresses import authority
from app.rpc.channel_arguments import channel_arguments
from app.rpc.grpcio_credentials import credentials
from app.rpc.grpcio_places import STATUS_CODES, PlacesPool, refusing_handler
from app.rpc.grpcio_streams import answers_of
from app.rpc.method import (
    Call,
    DialogueMethod,
    Method,
    PushMethod,
    StreamMethod,
    Table,
    retry_metadata,
    wire_message,
)
from app.rpc.methods import is_seen
from app.security.tls import WatchedTls
from app.telemetry.observation import Observation
from app.telemetry.observer import Observer

logger = logging.getLogger(__name__)

# grpcio gives a call without a deadline one in the far future. Of real ones, TensorFlow Serving takes
# no more milliseconds than an int32 holds.
_NO_DEADLINE_SECONDS = (2**31 - 1) / 1000
# Dialogues hold a thread each for as long as their client likes. Those that come later wait.
_DIALOGUE_THREADS = 4
# A client that does not read blocks the one that sends to it.
_PUSH_THREADS = 4


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
        self._handler = _TableHandler(methods, threads, access, admission, observer or Observer())
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


class _TableHandler(grpc.GenericRpcHandler):  # type: ignore[type-arg] # generic in its stubs only
    """Looks calls up in the table; what is not there is UNIMPLEMENTED, without a text."""

    def __init__(
        self,
        methods: Table,
        threads: futures.ThreadPoolExecutor,
        access: Access | None,
        admission: Admission | None,
        observer: Observer,
    ) -> None:
        self._access = access
        self._observer = observer
        self._admission = admission
        self._limited: set[str] = set()
        self._dialogues: set[Any] = set()  # the contexts of those that are open
        quick = self._quick = futures.ThreadPoolExecutor(1, thread_name_prefix="ferry-grpc-quick")
        talking = futures.ThreadPoolExecutor(_DIALOGUE_THREADS, thread_name_prefix="ferry-grpc-talk")
        pushing = futures.ThreadPoolExecutor(_PUSH_THREADS, thread_name_prefix="ferry-grpc-push")
        self._handlers = {}
        for path, method in methods.items():
            if isinstance(method, Method):
                unary = _behaviour(path, method)
                if method.quick:
                    unary.experimental_thread_pool = quick
                elif method.takes_place and admission is not None and admission.limits:
                    unary.experimental_thread_pool = PlacesPool(threads, admission)
                    self._limited.add(path)
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
        path = handler_call_details.method
        handler = self._handlers.get(path, self._unknown)
        refusal = None if handler is self._unknown else self._refusal(path, handler_call_details)
        seen = None
        if (
            self._observer.active
            and is_seen(path)
            and (refusal is not None or handler.unary_unary is not None)
        ):
            seen = self._begin_seeing(handler_call_details)
        if refusal is not None:
            if seen is not None:
                seen.answered(refusal.code)
                self._observer.end(seen, 0)
            return refusing_handler(refusal, self._quick)
        return handler if seen is None else self._observed(handler.unary_unary, seen)

    def _refusal(self, path: str, details: Any) -> ServingError | None:
        """What to tell a client whose call is not taken on."""
        if self._access is not None:
            found = dict(details.invocation_metadata or ())
            given = [_text(found.get(name, "")) for name in ("authorization", "x-api-key")]
            refusal = self._access.refusal(path, *given)
            if refusal is not None:
                return refusal
        if self._admission is not None and path in self._limited:
            return self._admission.refusal()
        return None

    def _begin_seeing(self, details: Any) -> Observation:
        """A call whose headers have just come."""
        headers = dict(details.invocation_metadata or ())
        return self._observer.begin(
            "GRPC",
            "POST",
            details.method,
            traceparent=headers.get("traceparent", ""),
            tracestate=headers.get("tracestate", ""),
        )

    def _observed(self, behaviour: Any, seen: Observation) -> Any:
        """`behaviour` for the one call `seen`."""
        call = functools.partial(_observed, self._observer, seen, behaviour)
        if (threads := getattr(behaviour, "experimental_thread_pool", None)) is not None:
            call.experimental_thread_pool = threads  # type: ignore[attr-defined] # as grpcio wants it
        return grpc.unary_unary_rpc_method_handler(call)

    def end_dialogues(self) -> None:
        for context in list(self._dialogues):
            context.cancel()


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _observed(observer: Observer, seen: Observation, behaviour: Any, data: bytes, context: Any) -> Any:
    seen.peer = context.peer()
    seen.request_bytes = len(data)
    answer = None
    try:
        with seen:
            answer = behaviour(data, context)
        seen.exchanged(data, answer)
        return answer
    finally:
        status = context.code()
        seen.answered(Code.OK if status is None else Code(status.value[0]))
        observer.end(seen, len(answer or b""))


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
        if error.retry_after is not None:
            context.set_trailing_metadata(retry_metadata(error))
        context.abort(STATUS_CODES[int(error.code)], wire_message(error))
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
