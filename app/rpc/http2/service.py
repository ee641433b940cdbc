"""What all connections share, and how a request's bytes become an answer's."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from app.admission import Admission
from app.cpus import thread_seconds
from app.errors import Code, ServingError
from app.placement import Placement
from app.rpc.access import Access
from app.rpc.http2.headers import RequestHead
from app.rpc.http2.limits import Limits
from app.rpc.http2.messages import Message, decompressed
from app.rpc.method import Call, Method, StreamMethod
from app.telemetry.observation import Observation
from app.telemetry.observer import Observer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """What all connections share.

    Attributes:
        table: the methods.
        limits: of each connection.
        placement: where calls run.
        threads: where calls run that do not run on the loop.
        thread_count: how many those are.
        loop: on which everything else happens.
        access: asked about every call; all are let in if None.
        observer: sees the unary calls.
        admission: of calls to models and of connections; all are taken on if None.
    """

    table: Mapping[str, Method | StreamMethod]
    limits: Limits
    placement: Placement
    threads: ThreadPoolExecutor
    thread_count: int
    loop: asyncio.AbstractEventLoop
    access: Access | None = None
    observer: Observer = field(default_factory=Observer)
    admission: Admission | None = None

    @property
    def asks(self) -> bool:
        """Whether somebody is asked about each call before it is run."""
        return self.access is not None or (self.admission is not None and self.admission.limits)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended.

    Attributes:
        answer: the serialized message, or the error.
        seconds: that it took.
        cpu_seconds: of its thread's time.
    """

    answer: bytes | ServingError
    seconds: float
    cpu_seconds: float


def run_timed(
    head: RequestHead,
    method: Method,
    message: Message,
    limit: int,
    call: Call,
    *,
    seen: Observation | None = None,
) -> Outcome:
    """Decode, handle, encode; whatever happens is an answer.

    Args:
        head: of the request.
        method: that it calls.
        message: of the request, perhaps compressed.
        limit: of a message's size once it is not, in bytes; negative: none.
        call: what the method is told of it.
        seen: the call, if somebody wants to see it.
    """
    start, cpu_start = time.perf_counter(), thread_seconds()
    answer = run(head, method, message, limit, call, seen=seen)
    return Outcome(answer, time.perf_counter() - start, thread_seconds() - cpu_start)


def run(
    head: RequestHead,
    method: Method,
    message: Message,
    limit: int,
    call: Call,
    *,
    seen: Observation | None = None,
) -> bytes | ServingError:
    """As `run_timed`, but without a clock."""
    body, compressed = message
    answer: bytes | ServingError
    method.traffic.begin()
    try:
        body = decompressed(body, head.encoding, limit) if compressed else body
        if seen is None:
            answer = method.answer(body, call)
        else:
            with seen:
                answer = method.answer(body, call)
            seen.exchanged(bytes(body), answer)
    except ServingError as error:
        answer = error
    except Exception as error:
        answer = unexpected(head.path, error)
    method.traffic.end(len(body), 0 if isinstance(answer, ServingError) else len(answer))
    return answer


def unexpected(path: str, error: Exception) -> ServingError:
    """The answer to what a method must not raise, which is logged."""
    logger.error("%s failed unexpectedly", path, exc_info=error)
    return ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
