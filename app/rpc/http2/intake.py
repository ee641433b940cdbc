"""How much the client may send: the window of the connection."""

from __future__ import annotations

from app.rpc.http2 import frames
from app.rpc.http2.frames import ErrorCode, Http2ConnectionError
from app.rpc.http2.outbox import Outbox


class Intake:
    """Counts data that came, and opens the window again."""

    def __init__(self, outbox: Outbox, window: int) -> None:
        """Announce a window of so many bytes."""
        self._outbox = outbox
        self._window = window
        self._taken = 0
        outbox.put(frames.window_update(0, window - frames.DEFAULT_WINDOW))

    def has_room(self, size: int) -> bool:
        """Whether the client was allowed to send so many bytes."""
        return self._taken + size <= self._window

    def take(self, size: int) -> None:
        """Count bytes; Http2ConnectionError if the client was not allowed to send them."""
        self._taken += size
        if self._taken > self._window:
            raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")

    @property
    def is_low(self) -> bool:
        """Whether it is time to open the window again."""
        return self._taken * 2 >= self._window

    def reopen(self) -> None:
        """Let the client send as much as in the beginning."""
        self._outbox.put(frames.window_update(0, self._taken))
        self._taken = 0
