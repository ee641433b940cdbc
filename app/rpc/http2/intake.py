"""How much the client may send: the window of the connection."""

from __future__ import annotations

from app.rpc.http2 import frames
from app.rpc.http2.frames import ErrorCode, Http2ConnectionError
from app.rpc.http2.outbox import Outbox


class Intake:
    """Counts data that came, and opens the window again.

    Attributes:
        window: what the client may send, in bytes.
        taken: what it has sent of that.
    """

    def __init__(self, outbox: Outbox, window: int) -> None:
        """Announce a window of so many bytes."""
        self._outbox = outbox
        self.window = window
        self.taken = 0
        outbox.put(frames.window_update(0, window - frames.DEFAULT_WINDOW))

    def take(self, size: int) -> None:
        """Count bytes; Http2ConnectionError if the client was not allowed to send them."""
        self.taken += size
        if self.taken > self.window:
            raise Http2ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")

    def reopen(self) -> None:
        """Let the client send as much as in the beginning."""
        self._outbox.put(frames.window_update(0, self.taken))
        self.taken = 0
