"""What one connection may cost, and the patience with a peer that wastes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from app.rpc.http2 import frames
from app.rpc.http2.headers import LARGEST_LIST

_FOREVER = 2**31 - 1  # as gRPC says it, in milliseconds


@dataclass(frozen=True)
class Limits:
    """The limits of each connection. Sizes are in bytes, times in seconds.

    Attributes:
        max_receive: size of a message received; negative: none.
        max_send: size of a message sent; negative: none.
        max_streams: calls at a time.
        stream_window: what a client may send ahead on one stream.
        connection_window: what it may send ahead in all.
        max_frame: the largest frame of data taken.
        max_output: answers that wait for the client; above it, no further request is begun.
        handshake_seconds: until the client must have sent its preface and settings.
        stall_seconds: how long answers may wait for a client that takes nothing.
        keepalive_seconds: silence after which the client is asked for a sign of life.
        keepalive_timeout_seconds: how long that sign may take.
        keepalive_without_calls: whether to ask while there is no call.
        ping_seconds: the least time between two pings of the client.
        ping_strikes: how many come too early before the connection ends; 0: any number may.
        idle_seconds: without calls, after which a connection is closed.
        age_seconds: after which a connection is closed once its calls are done.
        age_grace_seconds: how long they may take.
        compression: of answers, if the client accepts it.
        share_port: whether other servers may listen on the same port.
        max_connections: at a time, of the whole server.
    """

    max_receive: int = 2**31 - 1
    max_send: int = -1
    max_streams: int = 1024
    stream_window: int = 4 << 20
    connection_window: int = 16 << 20
    max_frame: int = 1 << 20
    max_output: int = 8 << 20
    handshake_seconds: float = 120
    stall_seconds: float = 60
    keepalive_seconds: float = 7200
    keepalive_timeout_seconds: float = 20
    keepalive_without_calls: bool = False
    ping_seconds: float = 300
    ping_strikes: int = 2
    idle_seconds: float = inf
    age_seconds: float = inf
    age_grace_seconds: float = inf
    compression: str = "identity"
    share_port: bool = True
    max_connections: float = inf

    @property
    def announced(self) -> dict[int, int]:
        """What the client is told of them, as HTTP/2's settings."""
        return {
            frames.MAX_CONCURRENT_STREAMS: self.max_streams,
            frames.INITIAL_WINDOW_SIZE: self.stream_window,
            frames.MAX_FRAME_SIZE: self.max_frame,
            frames.MAX_HEADER_LIST_SIZE: LARGEST_LIST,
        }

    @property
    def tick_seconds(self) -> float:
        """How often the clocks of a connection are looked at."""
        clocks = (
            self.handshake_seconds,
            self.stall_seconds,
            self.keepalive_seconds,
            self.keepalive_timeout_seconds,
            self.idle_seconds,
            self.age_seconds,
            self.age_grace_seconds,
        )
        return max(0.01, min(1.0, *(seconds / 4 for seconds in clocks)))


_COMPRESSIONS = {1: "deflate", 2: "gzip"}


def limits_of(arguments: Mapping[str, int | str]) -> Limits:
    """The limits that channel arguments set; arguments that mean nothing here are passed over."""

    def number(key: str, default: float) -> int:
        value = arguments.get(f"grpc.{key}", default)
        return value if isinstance(value, int) else int(default)

    def seconds(key: str, default: float) -> float:
        value = arguments.get(f"grpc.{key}")
        if not isinstance(value, int):
            return default
        return inf if value >= _FOREVER or value < 0 else value / 1000

    base = Limits()
    return Limits(
        max_receive=number("max_receive_message_length", base.max_receive),
        max_send=number("max_send_message_length", base.max_send),
        max_streams=max(1, min(number("max_concurrent_streams", base.max_streams), 1 << 20)),
        max_frame=min(max(number("http2.max_frame_size", base.max_frame), 16384), (1 << 24) - 1),
        handshake_seconds=seconds("server_handshake_timeout_ms", base.handshake_seconds),
        keepalive_seconds=seconds("keepalive_time_ms", base.keepalive_seconds),
        keepalive_timeout_seconds=seconds("keepalive_timeout_ms", base.keepalive_timeout_seconds),
        keepalive_without_calls=bool(number("keepalive_permit_without_calls", 0)),
        ping_seconds=seconds("http2.min_ping_interval_without_data_ms", base.ping_seconds),
        ping_strikes=number("http2.max_ping_strikes", base.ping_strikes),
        idle_seconds=seconds("max_connection_idle_ms", base.idle_seconds),
        age_seconds=seconds("max_connection_age_ms", base.age_seconds),
        age_grace_seconds=seconds("max_connection_age_grace_ms", base.age_grace_seconds),
        compression=_COMPRESSIONS.get(number("default_compression_algorithm", 0), "identity"),
        share_port=bool(number("so_reuseport", 1)),
        max_connections=number("max_allowed_incoming_connections", 0) or inf,
    )


class Patience:
    """A supply that waste uses up and time refills: for what a good client does seldom."""

    def __init__(self, supply: float, per_second: float) -> None:
        """Begin with all of `supply`; regain `per_second`."""
        self._supply = self._left = supply
        self._per_second = per_second
        self._at = 0.0

    def spend(self, now: float) -> bool:
        """Use one up at the time `now`; False if there was none."""
        if self._at:
            self.regain((now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def regain(self, amount: float = 1) -> None:
        """Give some back."""
        self._left = min(self._supply, self._left + amount)


# Without calls, and without leave to send pings then, a client may send one in two hours.
_IDLE_PING_SECONDS = 7200


class PingWatch:
    """Counts pings that come too early, by gRPC's rules for clients' keepalive."""

    def __init__(self, limits: Limits) -> None:
        """Take the pace from `limits`."""
        self._limits = limits
        self._next = 0.0
        self._strikes = 0

    def answered(self) -> None:
        """Data or headers went to the client: it may well ask whether they arrived."""
        self._next = 0.0
        self._strikes = 0

    def tolerates(self, now: float, *, has_calls: bool) -> bool:
        """Whether a ping at the time `now` is one that has to be borne."""
        early = now < self._next
        permitted = has_calls or self._limits.keepalive_without_calls
        self._next = now + (self._limits.ping_seconds if permitted else _IDLE_PING_SECONDS)
        self._strikes += early
        return self._strikes <= self._limits.ping_strikes or not self._limits.ping_strikes
