"""uvicorn's HTTP protocol with a short way for plain inference requests.

uvicorn starts a task at the end of a request's head, which then waits for the body. Here the body of a
plain POST is collected first; if `Direct` has an answer then, it is written at once. If not, uvicorn goes on
as if the whole request had come in this moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from app.options import Options
from app.rest.connections import ConnectionLimits, LimitedProtocol
from app.rest.direct import Direct, target_of
from app.rest.service import Reply
from app.telemetry.instruments import Counter

# What asks for more than an answer to a body.
_SPECIAL = frozenset((b"content-encoding", b"transfer-encoding", b"expect", b"upgrade"))
# A client may send many requests without waiting. After so long its further ones let others have the loop.
_TURN_SECONDS = 2e-3


def http_protocol(options: Options, refused: Counter) -> Callable[..., asyncio.Protocol]:
    """What makes the protocol of each connection, for uvicorn.

    Args:
        options: with the limits of connections.
        refused: counts what is refused, by reason.
    """
    return partial(HttpProtocol, limits=ConnectionLimits.of(options), refused=refused)


class HttpProtocol(LimitedProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Made by uvicorn's server; an application without a `direct` is served as by uvicorn."""
        super().__init__(*args, **kwargs)
        direct: Direct | None = getattr(self.app, "direct", None)
        self._direct = direct if direct is not None and direct.enabled else None
        self._pieces: list[bytes] | None = None  # of the body of a plain request
        self._target = ""  # of that request

    def on_headers_complete(self) -> None:
        """Wait for the body of a plain request; anything else begins now."""
        if self._direct is None or not self._is_plain(self._direct.largest_body):
            super().on_headers_complete()
        elif self.end_headers():
            self._pieces = []

    def on_body(self, body: bytes) -> None:
        """Collect it."""
        if self._pieces is None:
            super().on_body(body)
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Answer at once, or begin the usual way with the whole body."""
        pieces, self._pieces = self._pieces, None
        if pieces is None:
            super().on_message_complete()
            return
        assert self._direct is not None
        if self.transport.is_closing():
            return
        self._arriving_since = None  # `end_arrival` without its call
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        in_turn = time.monotonic() < self._heard + _TURN_SECONDS  # what arrived together is one turn
        reply = self._direct.answer(self._target, body) if in_turn else None
        if reply is not None:
            self._write(reply, self._direct.is_draining())
            return
        self._begin(body)
        super().on_message_complete()

    def shutdown(self) -> None:
        """A request whose body is on its way is finished; then the connection ends."""
        if self._pieces is not None:
            pieces, self._pieces = self._pieces, None
            self._begin(b"".join(pieces))
        super().shutdown()

    def is_unanswered(self) -> bool:
        """A plain request is answered when all of it is there."""
        return self._pieces is not None or super().is_unanswered()

    def _is_plain(self, largest_body: int) -> bool:
        """Whether a request may go the short way, as far as its head tells."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or self.parser.get_method() != b"POST" or (target := target_of(self.url)) is None:
            return False
        self._target = target
        if self.flow.write_paused or self.parser.get_http_version() != "1.1":
            return False
        size = 0
        for name, value in self.headers:
            if name in _SPECIAL:
                return False
            if name == b"content-length":
                size = int(value)
        return 0 < size <= largest_body

    def _begin(self, body: bytes) -> None:
        """Go the usual way, with the body as far as it is there."""
        super().on_headers_complete()
        self.cycle.body = body  # type: ignore[assignment] # what is bytes already is not copied again
        self.cycle.message_event.set()

    def _write(self, reply: Reply, ending: bool) -> None:
        ending = ending or not self.parser.should_keep_alive()
        parts = [STATUS_LINE[reply.status]]
        for name, value in self.server_state.default_headers:
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"content-type: application/json\r\ncontent-length: %d\r\n" % len(reply.body))
        parts.append(b"connection: close\r\n\r\n" if ending else b"\r\n")
        parts.append(reply.body)
        self.transport.write(b"".join(parts))
        if ending:
            self.transport.close()
        self.answered_at_once()
