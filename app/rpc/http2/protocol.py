"""A connection on an asyncio loop: what comes in goes to `Connection`, what it has to say goes out."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from typing import Any, cast

from app.rpc.http2.calls import GrpcCalls
from app.rpc.http2.clocks import Clocks
from app.rpc.http2.connection import Connection
from app.rpc.http2.service import Service
from app.telemetry.observation import peer_of

logger = logging.getLogger(__name__)

# More than this in the socket's buffer, and no more is written until the client has read some.
_HIGH_WATER = 256 << 10
# Many small writes cost more than a copy, a copy of a large answer more than the calls.
_JOINED_BYTES = 64 << 10
# gRPC's spread, so that connections that began together do not end together.
_AGE_JITTER = 0.1


class Http2Protocol(asyncio.Protocol):
    """The server's end of one connection.

    Attributes:
        connection: its state.
        calls: what runs on it.
    """

    connection: Connection
    calls: GrpcCalls

    def __init__(self, service: Service, connections: set[Http2Protocol]) -> None:
        """Serve `service`; be in `connections` as long as the connection lasts."""
        self._service = service
        self._connections = connections
        self._paused = False
        self._turn_due = False
        self.connection = Connection(self._make_calls, service.limits)
        age = service.limits.age_seconds * (1 + random.uniform(-_AGE_JITTER, _AGE_JITTER))  # noqa: S311
        self._clocks = Clocks(self.connection, service.limits, age)

    def _make_calls(self, connection: Connection) -> GrpcCalls:
        self.calls = GrpcCalls(connection, self._service, self.flush)
        return self.calls

    # --- told by the loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless TLS agreed on another protocol."""
        self._transport = cast("asyncio.Transport", transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._transport.abort()
            return
        if len(self._connections) >= self._service.limits.max_connections:
            if self._service.admission is not None:
                self._service.admission.count_refused("connections")
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.calls.peer = peer_of(transport.get_extra_info("peername"))
        self._connections.add(self)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Take what came, and answer what it completes."""
        self.calls.new_turn()
        self.connection.receive(data)
        self.flush()

    def eof_received(self) -> None:
        """The client will send nothing more."""
        self.connection.abort()  # gRPC clients do not close one half alone

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        del exc
        self._connections.discard(self)
        self._paused = True
        self.connection.abort()

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        # A client that does not read is not read from: answers to its pings would pile up.
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client has read again."""
        self._paused = False
        self._transport.resume_reading()
        self.flush()

    # --- out ---

    def flush(self) -> None:
        """Send what can be sent, in one go if it is little."""
        outbox = self.connection.outbox
        while not self._paused and (ready := outbox.take()):
            self._write(ready)
            if not outbox.blocked:  # that was all
                break
        self.connection.replenish()
        if self.connection.over and not self._transport.is_closing() and not self._paused:
            self._close()
        elif self.calls.pending and not self._turn_due:
            self._turn_due = True
            self._service.loop.call_soon(self._turn)

    def _write(self, ready: list[Any]) -> None:
        if self._transport.is_closing():
            return
        if len(ready) == 1:
            self._transport.write(ready[0])
        elif sum(map(len, ready)) <= _JOINED_BYTES:
            self._transport.write(b"".join(ready))
        else:
            self._transport.writelines(ready)

    def _turn(self) -> None:
        self._turn_due = False
        self.calls.resume()
        self.flush()

    def _close(self) -> None:
        fault = self.connection.fault
        if fault is not None:
            logger.info("A gRPC connection was closed: %s", fault)
        self._transport.close()

    # --- clocks, and the end ---

    def tick(self) -> None:
        """Look at the clocks."""
        if not self._clocks.tick(time.monotonic(), paused=self._paused):
            self.kill()
        else:
            self.flush()

    def drain(self) -> None:
        """Tell the client to go, and close when its calls are done."""
        self.connection.drain()
        self.flush()

    def kill(self) -> None:
        """Close now, whatever is under way."""
        self.connection.abort()
        self._transport.abort()
