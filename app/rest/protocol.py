"""uvicorn's HTTP protocol with a short way for plain inference requests.

uvicorn starts a task at the end of a request's head, which then waits for the body. Here the body of a
plain POST is collected first; if `Direct` has an answer then, it is written at once. If not, uvicorn goes on
as if the whole request had come in this moment. A request whose head was seen before is not even parsed.
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
from app.rest.heads import LONGEST_REQUEST
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
        # Whether the next byte begins a request, and all before it were answered.
        self._between = self._direct is not None
        self._answered: tuple[str, int] | None = None  # the plain request just parsed: target, size of body

    def data_received(self, data: bytes) -> None:
        """Answer a plain request at once if its head was seen before; parse anything else."""
        direct = self._direct
        if not self._between or direct is None or len(data) > LONGEST_REQUEST:
            super().data_received(data)
        elif not self._again(direct, data):
            self._answered = None
            super().data_received(data)
            if self._answered is not None:
                direct.heads.learn(data, *self._answered)

    def _again(self, direct: Direct, data: bytes) -> bool:
        """Whether `data` was a request like an earlier one, and is answered."""
        found = direct.heads.find(data)
        if found is None or self._surplus or self.transport.is_closing() or self.flow.write_paused:
            return False
        reply = direct.answer(*found)
        if reply is None:
            return False
        self._heard = time.monotonic()
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self._write(reply, direct.is_draining())
        return True

    def on_message_begin(self) -> None:
        """A request begins."""
        self._between = False
        super().on_message_begin()

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
            ending = self._direct.is_draining() or not self.parser.should_keep_alive()
            self._write(reply, ending)
            if not ending:
                self._between = True
                self._answered = self._target, len(body)
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
