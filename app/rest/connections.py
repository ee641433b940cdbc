"""What an HTTP connection may cost: uvicorn's protocol, with limits of headers, time and connections."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from http import HTTPStatus
from math import inf
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.options import Options
from app.rest.joined_writes import JoinedWrites
from app.rest.json_encode import encode_error
from app.telemetry.instruments import Counter

# A request may take a second longer for so many bytes: who sends at this rate is slow, not hostile.
_BYTES_A_SECOND = 1024
# Connections beyond the limit get an answer, unless there are more than so many of them.
_REFUSED_POLITELY = 128
# How long such a connection may take to send a request, or one that was answered to send the rest of it.
_FAREWELL_SECONDS = 2.0


@dataclass(frozen=True)
class ConnectionLimits:
    """The limits. Sizes are in bytes, times in seconds; `inf` for none.

    Attributes:
        connections: at a time.
        headers: the size of a request's line and headers.
        receive_seconds: how long a request may take to arrive.
        idle_seconds: how long a connection may be without one.
    """

    connections: float = inf
    headers: float = inf
    receive_seconds: float = inf
    idle_seconds: float = inf

    @staticmethod
    def of(options: Options) -> ConnectionLimits:
        """The limits that the flags set."""
        return ConnectionLimits(
            options.max_connections or inf,
            options.rest_api_max_header_kb * 1024 or inf,
            options.rest_api_receive_timeout_in_ms / 1000 or inf,
            options.rest_api_idle_timeout_in_ms / 1000 or inf,
        )


class LimitedProtocol(HttpToolsProtocol):
    """One connection. `tick` has to be called about once a second."""

    def __init__(self, *arguments: Any, limits: ConnectionLimits, refused: Counter, **more: Any) -> None:
        """As uvicorn makes it, with `limits`; `refused` counts."""
        super().__init__(*arguments, **more)
        self._limits = limits
        self._refused = refused
        self._surplus = False  # one connection too many
        self._chunk = 0  # the size of what is just being parsed
        self._size = 0  # of the request that arrives
        self._in_headers = False
        self._arriving_since: float | None = None
        self._heard = self._quiet_since = time.monotonic()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Begin, or turn the client away."""
        super().connection_made(transport)
        self._joined = JoinedWrites(transport, self.loop)
        self._surplus = len(self.connections) > self._limits.connections
        if len(self.connections) > self._limits.connections + _REFUSED_POLITELY:
            self._refused.increment("connections")
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless it is too much."""
        if self._surplus:
            text = f"The server has {self._limits.connections} connections already; try again later."
            self._turn_away("connections", HTTPStatus.SERVICE_UNAVAILABLE, text)
            return
        self._heard = time.monotonic()
        self._chunk = len(data)
        self._size += self._chunk
        super().data_received(data)
        if self._in_headers and self._size > self._limits.headers:
            self._refuse_headers()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._arriving_since = self._heard
        self._size = self._chunk
        self._in_headers = True

    def on_headers_complete(self) -> None:
        """The headers are there: run the request, unless they are too large."""
        if self.end_headers():
            super().on_headers_complete()
            self.cycle.transport = self._joined  # type: ignore[assignment] # has what a cycle uses

    def end_headers(self) -> bool:
        """Whether the headers are not too large; the client is turned away if they are."""
        self._in_headers = False
        if self._size > self._limits.headers:  # with some of the body, perhaps
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > self._limits.headers:
                self._refuse_headers()
                return False
        return True

    def on_body(self, body: bytes) -> None:
        """A part of the body came."""
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        self.end_arrival()
        if not self.transport.is_closing():
            super().on_message_complete()

    def end_arrival(self) -> None:
        """The request is there: its clock stops."""
        self._arriving_since = None

    def is_unanswered(self) -> bool:
        """Whether no answer was begun to the request that arrives."""
        return self._in_headers or not self.cycle.response_started

    def on_response_complete(self) -> None:
        """The answer is on its way."""
        self._joined.end()
        self._quiet_since = time.monotonic()
        super().on_response_complete()

    def answered_at_once(self) -> None:
        """An answer went out beside uvicorn, whose timer is not needed: `tick` looks at the time."""
        self._quiet_since = self._heard
        self.server_state.total_requests += 1

    def _refuse_headers(self) -> None:
        text = (
            f"The request line and headers have more than {self._limits.headers} bytes "
            "(--rest_api_max_header_kb)."
        )
        self._turn_away("header_size", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text)

    def _turn_away(self, reason: str, status: HTTPStatus, text: str) -> None:
        """Answer with an error and close, without a look at the rest."""
        if self.transport.is_closing():
            return
        self._refused.increment(reason)
        self._in_headers = False
        body = encode_error(text)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            headers.append((b"retry-after", b"1"))
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + body)
        self.transport.close()

    def tick(self, now: float) -> None:
        """Close the connection if its time is over.

        Args:
            now: on `time.monotonic`.
        """
        if self.transport.is_closing():
            return
        if self._arriving_since is not None:
            self._watch_arrival(now - self._arriving_since)
        elif self.cycle is not None and not self.cycle.response_complete:
            self._quiet_since = now  # it waits for us
        elif now - self._quiet_since >= (_FAREWELL_SECONDS if self._surplus else self._limits.idle_seconds):
            self.transport.close()

    def _watch_arrival(self, seconds: float) -> None:
        """Look at a request that has been arriving for so many seconds."""
        if seconds <= self._limits.receive_seconds + self._size / _BYTES_A_SECOND:
            return
        if self.is_unanswered():
            text = (
                f"The request did not arrive within {self._limits.receive_seconds:g} s "
                "(--rest_api_receive_timeout_in_ms)."
            )
            self._turn_away("slow", HTTPStatus.REQUEST_TIMEOUT, text)
        else:
            self.transport.close()
