"""What becomes of a connection by the passing of time alone."""

from __future__ import annotations

from math import inf

from app.rpc.http2.connection import Connection
from app.rpc.http2.limits import Limits

# How long a client may take to say that it has seen the announcement of the end.
_FAREWELL_SECONDS = 1.0


class Clocks:
    """The clocks of one connection; `tick` looks at them, every `Limits.tick_seconds`."""

    def __init__(self, connection: Connection, limits: Limits, age_seconds: float) -> None:
        """Start them; the connection may become `age_seconds` old."""
        self._connection = connection
        self._limits = limits
        self._age_seconds = age_seconds
        self._born = self._calls_at = self._moved_at = connection.heard
        self._over_at: float | None = None
        self._sent = 0
        self._asked_at: float | None = None

    def tick(self, now: float, *, paused: bool) -> bool:
        """Do what is due; False if the connection has to be closed at once.

        Args:
            now: on `time.monotonic`.
            paused: whether the client leaves even the socket's buffer full.
        """
        if self._connection.over:  # what is left in the socket's buffer may still go out
            self._over_at = self._over_at or now
            return now - self._over_at < self._limits.stall_seconds
        if not self._connection.settled:
            return now - self._born < self._limits.handshake_seconds
        self._watch_age(now)
        return not (self._stalled(now, paused) or self._dead(now) or self._overdue(now))

    def _stalled(self, now: float, paused: bool) -> bool:
        outbox = self._connection.outbox
        if outbox.sent_bytes != self._sent or not (outbox.waiting_bytes or paused):
            self._sent, self._moved_at = outbox.sent_bytes, now
        return now - self._moved_at >= self._limits.stall_seconds

    def _dead(self, now: float) -> bool:
        heard = self._connection.heard
        if self._asked_at is not None:
            if heard >= self._asked_at:
                self._asked_at = None
            else:
                return now - self._asked_at >= self._limits.keepalive_timeout_seconds
        permitted = self._connection.streams or self._limits.keepalive_without_calls
        if permitted and now - heard >= self._limits.keepalive_seconds:
            self._asked_at = now
            self._connection.ping()
        return False

    def _watch_age(self, now: float) -> None:
        connection = self._connection
        if connection.streams:
            self._calls_at = now
        idle = now - self._calls_at >= self._limits.idle_seconds
        if connection.draining is None:
            if idle or now - self._born >= self._age_seconds:
                connection.drain()
        elif now - connection.draining >= _FAREWELL_SECONDS:
            connection.leave()

    def _overdue(self, now: float) -> bool:
        """Whether calls outlive the grace that an old connection has."""
        grace = self._limits.age_grace_seconds
        if inf in (self._age_seconds, grace) or self._connection.draining is None:
            return False
        return now - self._connection.draining >= grace
