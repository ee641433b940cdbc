"""Which requests are taken on: how many at a time, over all protocols, and how many a second of each model.

A request that is refused costs next to nothing: it is told so before its body is read (REST) or run (gRPC),
with the time after which to try again.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from app.errors import Code, ServingError
from app.options import Options
from app.telemetry.instruments import Counter

# What a client is told when all places are taken: how long requests take is not known.
_PLACE_SECONDS = 1.0


@dataclass
class TokenBucket:
    """A supply that requests use up and time refills. Not for several threads.

    Attributes:
        rate: tokens a second; also how many there are at most, but at least one.
        tokens: left at the time `at`.
        at: of the last look, on the caller's clock.
    """

    rate: float
    tokens: float
    at: float

    @staticmethod
    def full(rate: float, now: float) -> TokenBucket:
        """A bucket from which nothing was taken yet."""
        return TokenBucket(rate, max(1.0, rate), now)

    def take(self, now: float) -> float:
        """Take one token at the time `now`; if there is none, the seconds until there is, else 0."""
        self.tokens = min(max(1.0, self.rate), self.tokens + max(0.0, now - self.at) * self.rate)
        self.at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.rate


class Admission:
    """Says yes or no to requests. Safe for any number of threads."""

    def __init__(
        self,
        options: Options,
        refused: Counter,
        models: Callable[[], Collection[str]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take all places as free.

        Args:
            options: `max_in_flight_requests` and `max_requests_per_second_per_model`.
            refused: counts what is refused, by reason.
            models: the names that are served: others have no rate, for any number of them can be made up.
            clock: in seconds; never goes back.
        """
        self._most = options.max_in_flight_requests
        self._rate = options.max_requests_per_second_per_model
        self._refused = refused
        self._models = models
        self._clock = clock
        self._in_flight = 0
        self._buckets: dict[str, TokenBucket] = {}
        self._lock = threading.Lock()

    @property
    def limits(self) -> bool:
        """Whether there is any limit."""
        return bool(self._most or self._rate)

    def count_refused(self, reason: str) -> None:
        """Count what another limit refused."""
        self._refused.increment(reason)

    def refusal(self) -> ServingError | None:
        """What to tell the next request if all places are taken, counted as said; None if it may `enter`."""
        if not self._most or self._in_flight < self._most:
            return None
        self._refused.increment("in_flight")
        return ServingError(
            Code.RESOURCE_EXHAUSTED,
            f"The server works on {self._most} requests already; try again later.",
            retry_after=_PLACE_SECONDS,
        )

    def enter(self, *, asked: bool = False) -> Callable[[], None]:
        """Take a place.

        Args:
            asked: `refusal` was None a moment ago: there is a place, whatever came between.

        Returns:
            To be called when the request is over; any further call does nothing.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if all places are taken.
        """
        if not self._most:
            return nothing
        with self._lock:
            error = None if asked else self.refusal()
            if error is None:
                self._in_flight += 1
        if error is not None:
            raise error
        return _Place(self._leave).leave

    def _leave(self) -> None:
        with self._lock:
            self._in_flight -= 1

    def check_rate(self, model: str) -> None:
        """Count a request to `model`.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if there were too many in the last second.
        """
        if not self._rate:
            return
        with self._lock:
            bucket = self._buckets.get(model) or self._new_bucket(model)
            wait = bucket.take(self._clock()) if bucket is not None else 0.0
        if wait > 0:
            self._refused.increment("rate")
            raise ServingError(
                Code.RESOURCE_EXHAUSTED,
                f"Model {model} takes {self._rate:g} requests a second; try again later.",
                retry_after=wait,
            )

    def _new_bucket(self, model: str) -> TokenBucket | None:
        served = self._models()
        if model not in served:
            return None
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if name in served}
        return self._buckets.setdefault(model, TokenBucket.full(self._rate, self._clock()))


class _Place:
    """One place, given back once, whoever says so first."""

    __slots__ = ("_give_back", "_lock")

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self._lock = threading.Lock()  # taken for good by the first who leaves

    def leave(self) -> None:
        if self._lock.acquire(blocking=False):
            self._give_back()


def nothing() -> None:
    """Give back the place in a house without a number of places."""


def whole_seconds(retry_after: float) -> int:
    """`retry_after` as HTTP says it: whole seconds, at least one."""
    return max(1, math.ceil(retry_after))
