"""What is seen of one request on its way: who asked for what, when each stage was reached, how it ended.

A transport makes an `Observation` if anybody wants one (see observer) and enters it in the thread that does
the work; the parts that it passes through find it in `current` and add what they know. Without one, that is
a look at a context variable and no more. All times are readings of `time.perf_counter_ns`, which on Linux is
the clock of `time.monotonic`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Any, Protocol, TypeVar

from app.errors import Code

T = TypeVar("T")

current: ContextVar[Observation | None] = ContextVar("observation", default=None)
"""The request that this thread or task works on; None while nobody wants to know."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_NO_TRACE = "0" * 32


Messages = tuple[bytes, bytes]
"""A request and its answer, serialized."""


class Recorder(Protocol):
    """Takes requests that were picked for the request log of their model. Does not block."""

    def exchange(self, seen: Observation, request: bytes, response: bytes) -> None:
        """Take the serialized messages of a gRPC call."""

    def record(self, seen: Observation, kind: str, make: Callable[[], Messages], size: int) -> None:
        """Take a request whose messages `make` makes later; they have about `size` bytes."""


class Recorders(Protocol):
    """The recorders of all models.

    Attributes:
        active: whether any request may be recorded.
        when_changed: called after each change.
    """

    active: bool
    when_changed: Callable[[], None]

    def pick(self, model: str) -> Recorder | None:
        """The recorder of `model` if this request is to be recorded."""

    def close(self, deadline: float) -> None:
        """Write what waits and finish all files, by `deadline` (monotonic)."""


class Observation:
    """One request. Filled by the thread that has it at the time.

    Attributes:
        entrypoint: `REST` or `GRPC`.
        method: of HTTP.
        path: of the request; for gRPC, that of the method.
        peer: the client's address as the transport writes it.
        traceparent: the header of that name; empty if there is none.
        tracestate: likewise.
        trace_id: 32 hexadecimal digits; empty if the request is in no trace.
        wall: nanoseconds since the epoch at `began`.
        began: when the headers were there.
        received: when the message was complete; 0 if the transport does not tell.
        started: when the work began.
        queued: when the request began and ended to wait for its batch; 0 and 0 if it did not.
        ran: when the run of the model began and ended; 0 and 0 if there was none.
        handled: when the answer was made.
        ended: when it was handed over to be sent.
        model: the name that was asked for.
        version: that answered; None if none did.
        signature: the name that was asked for.
        code: of the outcome.
        status: of HTTP; 0 for gRPC.
        request_bytes: of the body or message, as received.
        response_bytes: likewise, as sent.
        recorder: of the request log, if the request is to be in it.
        span: what the tracer keeps with it.
    """

    __slots__ = (
        *("entrypoint", "method", "path", "peer", "traceparent", "tracestate", "trace_id"),
        *("wall", "began", "received", "started", "queued", "ran", "handled", "ended"),
        *("model", "version", "signature", "code", "status", "request_bytes", "response_bytes"),
        *("recorder", "span", "_recorders", "_token"),
    )

    def __init__(
        self,
        entrypoint: str,
        method: str,
        path: str,
        *,
        peer: str = "",
        traceparent: str = "",
        tracestate: str = "",
        recorders: Recorders | None = None,
    ) -> None:
        """Begin, now."""
        self.began = time.perf_counter_ns()
        self.wall = time.time_ns()
        self.entrypoint = entrypoint
        self.method = method
        self.path = path
        self.peer = peer
        self.traceparent = traceparent
        self.tracestate = tracestate
        self.trace_id = trace_id_of(traceparent) if traceparent else ""
        self.received = self.started = self.handled = self.ended = 0
        self.queued = self.ran = (0, 0)
        self.model = self.signature = ""
        self.version: int | None = None
        self.code = Code.OK
        self.status = self.request_bytes = self.response_bytes = 0
        self.recorder: Recorder | None = None
        self.span: Any = None
        self._recorders = recorders
        self._token: Token[Observation | None] | None = None

    def __enter__(self) -> Observation:
        """Be the current one: the work begins."""
        self.started = time.perf_counter_ns()
        self._token = current.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        """The work is done."""
        assert self._token is not None
        current.reset(self._token)
        self.handled = time.perf_counter_ns()

    def within(self, work: Callable[[], T]) -> T:
        """What `work` returns, done while this is the current one."""
        with self:
            return work()

    def arrived(self, size: int) -> None:
        """The whole message is there, with so many bytes."""
        self.received = time.perf_counter_ns()
        self.request_bytes = size

    def answered(self, code: Code, status: int = 0) -> None:
        """This is what the client gets, with HTTP's status."""
        self.code = code
        self.status = status

    def asked_for(self, model: str, signature: str) -> None:
        """These names were asked for; the signature's is empty for the default."""
        self.model = model
        self.signature = signature

    def served_by(self, version: int) -> None:
        """A version was found: now is decided whether the request is recorded."""
        self.version = version
        if self._recorders is not None and self._recorders.active:
            self.recorder = self._recorders.pick(self.model)

    def exchanged(self, request: bytes, response: bytes) -> None:
        """A gRPC call succeeded with these messages, neither of them compressed."""
        if self.recorder is not None:
            self.recorder.exchange(self, request, response)

    @property
    def failed(self) -> bool:
        """Whether the client got an error."""
        return self.status >= 400 or self.code is not Code.OK


def note_run(api: str, micros: int) -> None:
    """Say that a run of the current request has just ended; an ObserveRun."""
    del api
    seen = current.get()
    if seen is not None:
        end = time.perf_counter_ns()
        # Of a run in a batch, the wait is no part.
        seen.ran = max(end - micros * 1000, seen.queued[1]), end


def note_queue(began: float, ended: float) -> None:
    """Say when the current request began and ended to wait for its batch, on `time.monotonic`."""
    seen = current.get()
    if seen is not None:
        seen.queued = int(began * 1e9), int(ended * 1e9)


def peer_of(address: object) -> str:
    """`host:port` of a socket's address, IPv6 in brackets; `unix` for one that is no pair of them."""
    if not isinstance(address, tuple | list) or len(address) < 2:
        return "unix"
    host, port = str(address[0]).removeprefix("::ffff:"), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def trace_id_of(traceparent: str) -> str:
    """The trace that the W3C header names; empty for one that is not well-formed."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match[1] if match and match[1] != _NO_TRACE and not traceparent.startswith("ff") else ""
