"""What grpcio runs for a call, made of a method of the table."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from app.errors import ServingError
from app.rpc.grpcio_outbox import Outbox
from app.rpc.grpcio_places import STATUS_CODES
from app.rpc.grpcio_streams import answers_of
from app.rpc.method import (
    Call,
    DialogueMethod,
    Method,
    PushMethod,
    StreamMethod,
    retry_metadata,
    wire_message,
)

logger = logging.getLogger(__name__)

# grpcio gives a call without a deadline one in the far future. Of real ones, TensorFlow Serving takes
# no more milliseconds than an int32 holds.
_NO_DEADLINE_SECONDS = (2**31 - 1) / 1000


def unimplemented(request: bytes, context: Any) -> None:
    """The answer to a method that is not in the table."""
    del request
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "")


def serialize(message: Any) -> bytes:
    """The bytes of a protobuf message."""
    return bytes(message.SerializeToString())


def behaviour_of(path: str, method: Method) -> Any:
    """A unary method, on bytes: what it cannot answer aborts the call."""
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


def stream_of(path: str, method: StreamMethod) -> Any:
    """A stream method; an error ends the answers."""

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


def push_of(method: PushMethod, threads: futures.Executor) -> Any:
    """A method that sends by a function; `threads` send what it has to say."""

    def call(request: Any, context: Any, send: Any) -> None:
        unsubscribe = method.subscribe(request, Outbox(send, threads).put)
        if not context.add_callback(unsubscribe):  # the client is gone already
            unsubscribe()

    return call


def talk_of(method: DialogueMethod, open_dialogues: set[Any]) -> Any:
    """A dialogue; its context is in `open_dialogues` until it ends."""

    def call(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        open_dialogues.add(context)
        try:
            for request in requests:
                yield method.answer(request)
        finally:
            open_dialogues.discard(context)

    return call
