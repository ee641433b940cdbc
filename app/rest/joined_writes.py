"""The head and the body of an answer in one write.

uvicorn writes them apart. Each write is a call of the system and wakes the client; and a server that is
killed between the two leaves half an answer, for which no balancer may ask another replica.
"""

from __future__ import annotations

import asyncio

# Of an answer before the answer (100 Continue), which nothing may follow for a while.
_INTERIM = b"HTTP/1.1 1"
_HEAD = b"HTTP/1.1 "


class JoinedWrites:
    """What uvicorn's cycles use of a connection's transport.

    Only a head ever waits, and not beyond the loop's turn, so that a body may come later or in many parts.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Begin with nothing written.

        Args:
            transport: writes.
            loop: of the transport.
        """
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self._expects_head = True
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Write it; a head goes with what follows it."""
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.writelines((head, data))
        elif self._expects_head and data.startswith(_HEAD) and not data.startswith(_INTERIM):
            self._expects_head = False
            self._head = data
            self._loop.call_soon(self.flush)
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write a head that waits, unless the client has gone meanwhile."""
        if self._head is not None:
            head, self._head = self._head, None
            if not self.is_closing():
                self._transport.write(head)

    def end(self) -> None:
        """The answer is complete: nothing waits any more, and the next write may be a head."""
        self.flush()
        self._expects_head = True

    def close(self) -> None:
        """Close the connection once everything is written."""
        self.flush()
        self._transport.close()
