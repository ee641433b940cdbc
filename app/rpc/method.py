"""What a method table is made of: the kinds of methods, and what passes between them and a transport.

A transport looks a method up by path, hands it the request's bytes and sends the bytes that come back, or the
`ServingError` that was raised.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from google.protobuf.message import DecodeError

from app.admission import whole_seconds
from app.api.request_patterns import Buffer
from app.errors import Code, ServingError
from app.telemetry.ferry_metrics import Traffic

# TensorFlow Serving cuts error texts on gRPC, so that they fit into the headers of an answer.
_LONGEST_MESSAGE = 1024


class Call(NamedTuple):
    """What a transport knows of a call beside its message.

    Attributes:
        deadline: on `time.monotonic`; None if the client set none.
    """

    deadline: float | None = None


class Shortcut(Protocol):
    """Answers some requests from their bytes."""

    def serve(self, message: Buffer, call: Call) -> bytes | None:
        """The serialized answer; None for a request that has to be decoded. Raises ServingError."""

    def learn(self, message: Buffer, request: Any) -> None:
        """A request that `serve` did not answer was answered; it says this."""


@dataclass(frozen=True)
class Method:
    """A unary method.

    Attributes:
        request: the message class to decode with.
        handle: message and call to answer; raises ServingError.
        traffic: where a transport counts calls and bytes.
        quick: takes microseconds, and has to be answered even while models take every thread.
        blocks: whether it waits for other things than the model that it runs, and so needs a thread.
        takes_place: whether calls count for `--max_in_flight_requests`.
        shortcut: asked first; None if there is none.
    """

    request: type[Any]
    handle: Callable[[Any, Call], Any]
    traffic: Traffic = field(default_factory=Traffic)
    quick: bool = False
    blocks: bool = False
    takes_place: bool = False
    shortcut: Shortcut | None = None

    def answer(self, message: Buffer, call: Call) -> bytes:
        """The serialized answer to a serialized request.

        Raises:
            ServingError: the handler's, or INTERNAL, in grpcio's words, for bytes that are no request.
        """
        if self.shortcut is None:
            return bytes(self.handle(decode(self.request, message), call).SerializeToString())
        answer = self.shortcut.serve(message, call)
        if answer is None:
            request = decode(self.request, message)
            answer = bytes(self.handle(request, call).SerializeToString())
            self.shortcut.learn(message, request)
        return answer


@dataclass(frozen=True)
class PushMethod:
    """A method that answers one message with any number, whenever there is something to say.

    No thread waits for that: the method is handed a function that sends.

    Attributes:
        request: the message class to decode with.
        subscribe: message and function to a function to call once the client is gone. The function
            given sends a message, or ends the call when given None; it does not block and may be called
            in any thread.
    """

    request: type[Any]
    subscribe: Callable[[Any, Callable[[Any], None]], Callable[[], None]]


@dataclass(frozen=True)
class DialogueMethod:
    """A method that answers each message of a stream with one. A transport ends open streams with its stop.

    Attributes:
        request: the message class to decode with.
        answer: message to answer; does not raise.
    """

    request: type[Any]
    answer: Callable[[Any], Any]


@dataclass(frozen=True)
class StreamMethod:
    """A method with any number of requests and answers.

    Attributes:
        request: the message class to decode with.
        handle: requests and call to answers, on an event loop; raises ServingError. It is cancelled when
            the client is gone.
    """

    request: type[Any]
    handle: Callable[[AsyncIterator[Any], Call], AsyncIterator[Any]]


AnyMethod = Method | PushMethod | DialogueMethod | StreamMethod
Table = Mapping[str, AnyMethod]


def decode(kind: type[Any], message: Buffer) -> Any:
    """A request; ServingError, in grpcio's words, for bytes that are none."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise ServingError(Code.INTERNAL, "Exception deserializing request!") from None


def wire_message(error: ServingError) -> str:
    """The text of `error` as a gRPC client gets it: cut where TensorFlow Serving cuts."""
    if len(error.message.encode()) <= _LONGEST_MESSAGE:
        return error.message
    kept = error.message.encode()[:_LONGEST_MESSAGE].decode(errors="ignore")
    return f"{kept}...TRUNCATED"


def retry_metadata(error: ServingError) -> tuple[tuple[str, str], ...]:
    """What `error` says beside code and text: when to try again, for gRPC's own retries and for people."""
    if error.retry_after is None:
        return ()
    return (
        ("grpc-retry-pushback-ms", str(round(error.retry_after * 1000))),
        ("retry-after", str(whole_seconds(error.retry_after))),
    )
