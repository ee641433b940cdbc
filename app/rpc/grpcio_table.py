"""The method table as grpcio asks for it: a handler for each call, in the threads that suit its method."""

from __future__ import annotations

import functools
from concurrent import futures
from typing import Any

import grpc

from app.admission import Admission
from app.errors import Code, ServingError
from app.rpc.access import Access
from app.rpc.grpcio_behaviours import behaviour_of, push_of, serialize, stream_of, talk_of, unimplemented
from app.rpc.grpcio_places import PlacesPool, refusing_handler
from app.rpc.method import Method, PushMethod, StreamMethod, Table
from app.rpc.methods import is_seen
from app.telemetry.observation import Observation
from app.telemetry.observer import Observer

# Dialogues hold a thread each for as long as their client likes. Those that come later wait.
_DIALOGUE_THREADS = 4
# A client that does not read blocks the one that sends to it.
_PUSH_THREADS = 4


class TableHandler(grpc.GenericRpcHandler):  # type: ignore[type-arg] # generic in its stubs only
    """Looks calls up in the table; what is not there is UNIMPLEMENTED, without a text."""

    def __init__(
        self,
        methods: Table,
        threads: futures.ThreadPoolExecutor,
        access: Access | None,
        admission: Admission | None,
        observer: Observer,
    ) -> None:
        """Make the handlers.

        Args:
            methods: the table.
            threads: of the server; they run what has none of its own.
            access: asked about every call; all are let in if None.
            admission: of calls to models; all are taken on if None.
            observer: sees the unary calls.
        """
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
                unary = behaviour_of(path, method)
                if method.quick:
                    unary.experimental_thread_pool = quick
                elif method.takes_place and admission is not None and admission.limits:
                    unary.experimental_thread_pool = PlacesPool(threads, admission)
                    self._limited.add(path)
                # Bytes in and out: their number is counted beside the call.
                handler = grpc.unary_unary_rpc_method_handler(unary)
            elif isinstance(method, PushMethod):
                push = push_of(method, pushing)
                push.experimental_non_blocking = True  # sends by a function, so no thread waits
                push.experimental_thread_pool = quick
                handler = grpc.unary_stream_rpc_method_handler(
                    push, request_deserializer=method.request.FromString, response_serializer=serialize
                )
            elif isinstance(method, StreamMethod):
                handler = grpc.stream_stream_rpc_method_handler(
                    stream_of(path, method), method.request.FromString, serialize
                )
            else:
                talk = talk_of(method, self._dialogues)
                talk.experimental_thread_pool = talking
                handler = grpc.stream_stream_rpc_method_handler(
                    talk, request_deserializer=method.request.FromString, response_serializer=serialize
                )
            self._handlers[path] = handler
        self._unknown = grpc.unary_unary_rpc_method_handler(unimplemented)

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call whose headers have just come."""
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
        """Cancel the dialogues that are open, for they have no end of their own."""
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
