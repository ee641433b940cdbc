"""The short way of a plain inference request whose model is fast: answered on the event loop, at once.

falcon and a task for each request cost more than a small model does. So the protocol asks here first, and
what is said here is what `application` would say. Whatever needs more than the target and the body goes
the way of all requests: what has to be unzipped, CORS, batching (requests wait for each other in threads),
models that are not known to be fast.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Hashable
from functools import lru_cache

from app.options import Options
from app.placement import STALL_SECONDS, WATCHED, Placement
from app.rest.heads import Heads
from app.rest.service import Reply, RestService
from app.telemetry.observer import Observer

LARGEST_BODY = 64 * 1024 * 1024
"""In bytes; what is larger goes the usual way."""

_TARGET = re.compile(
    rb"/v1/models/[\w.%-]+(/versions/[0-9]+|/labels/[\w.%-]+)?:(predict|classify|regress)", re.ASCII
)
_TARGETS_KEPT = 1024
_LONGEST_TARGET = 256
# Python lets a thread keep its lock for 5 ms, and for as long as a call into C takes.
_LONGEST_HELD_SECONDS = 15e-3


def kind_of(target: str, body: bytes) -> Hashable:
    """What requests have to have in common for one to tell of the next: target and about the same size."""
    return target, len(body).bit_length()


class Direct:
    """Answers in the event loop's thread.

    Attributes:
        enabled: whether there is ever an answer here.
        is_draining: whether connections are to end with their next answer.
        largest_body: in bytes; what is larger goes the usual way.
        heads: of requests that came here before.
    """

    def __init__(
        self,
        service: RestService,
        options: Options,
        placement: Placement,
        is_draining: Callable[[], bool],
        *,
        guarded: bool = False,
        observer: Observer | None = None,
    ) -> None:
        """Prepare to answer.

        Args:
            service: answers.
            options: of the server; some of them leave nothing to answer here.
            placement: knows which requests are fast.
            is_draining: whether connections are to end with their next answer.
            guarded: whether tokens are asked for, which is not done here.
            observer: while it wants to see requests, they go the usual way.
        """
        self._observer = observer or Observer()
        self.largest_body = min(LARGEST_BODY, options.rest_api_max_body_mb * 1024 * 1024 or LARGEST_BODY)
        self.heads = Heads()
        self._service = service
        self._placement = placement
        self.is_draining = is_draining
        self.enabled = not (
            guarded
            or options.rest_api_enable_cors_support
            or options.enable_batching
            or options.adaptive_batching
            or options.max_in_flight_requests
            or options.max_requests_per_second_per_model
        )
        milliseconds = options.rest_api_timeout_in_ms
        self._timeout = milliseconds / 1000 if milliseconds > 0 else None

    def answer(self, target: str, body: bytes) -> Reply | None:
        """Answer and count a POST request to a plain target; None if it has to go the usual way."""
        if self._observer.active:
            return None
        placement = self._placement
        record = placement.find(kind_of(target, body))
        if record is None or not record.inline:
            return None
        traffic = self._service.traffic(target)
        traffic.begin()
        sent = 0
        watched = placement.watched > 0
        cpu_start = time.thread_time() if watched else 0.0
        start = time.perf_counter()
        try:
            deadline = None if self._timeout is None else time.monotonic() + self._timeout
            reply = self._service.answer("POST", target, body, deadline)
            sent = len(reply.body)
        finally:
            traffic.end(len(body), sent)
        self._service.count(reply)
        seconds = time.perf_counter() - start
        held = held_seconds(reply, seconds)
        stalled = seconds - held
        if watched:
            placement.watched -= 1
            cpu_seconds = max(0.0, time.thread_time() - cpu_start - held)
        else:
            cpu_seconds = min(stalled, STALL_SECONDS)
        if stalled > STALL_SECONDS:
            placement.watched = WATCHED
        record.ran_inline(stalled, cpu_seconds)
        return reply


def held_seconds(reply: Reply, seconds: float) -> float:
    """Of the seconds that a request took, those that would stall the event loop from a thread as well.

    Decoding and encoding hold Python's lock, most of the time in one call into C. On the loop they need no
    hand-over of the lock, and find the body in the caches. What takes very long goes to a thread all the
    same, which the loop can interrupt between such calls.

    Args:
        reply: to the request.
        seconds: that decide whether it took very long.
    """
    if not reply.stages or seconds > _LONGEST_HELD_SECONDS:
        return 0.0
    decode, _, encode = reply.stages
    return (decode + encode) / 1e9


@lru_cache(maxsize=_TARGETS_KEPT)
def _known_target(url: bytes) -> str | None:
    return url.decode("ascii") if _TARGET.fullmatch(url) else None


def target_of(url: bytes) -> str | None:
    """The target if it is an inference request's in its plain form; None for any other."""
    return _known_target(url) if len(url) <= _LONGEST_TARGET else None
