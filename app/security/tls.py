"""TLS with what is in force when a connection begins; connections that are open keep what they have."""

from __future__ import annotations

import ssl
from typing import Any

from app.config import tls
from app.config.tls import TlsConfig
from app.errors import invalid_argument
from app.security.watched import Watched

WatchedTls = Watched[TlsConfig]


def watch(flag: str, path: str) -> WatchedTls:
    """The TLS configuration at `path`, which `--flag` names.

    Whether clients need certificates is settled at the start: a change of it is refused, as grpcio
    could not follow it.

    Raises:
        ServingError: it cannot be used; the text says why.
    """
    at_start = tls.read_file(path).client_verify

    def check(config: TlsConfig) -> None:
        config.context()
        if config.client_verify != at_start:
            raise invalid_argument(f"{path}: a change of client_verify needs a restart.")

    return Watched(flag, lambda: tls.read_file(path), check)


class LiveContext(ssl.SSLContext):
    """A server's context that makes each connection by the configuration then in force.

    Event loops ask a context for one thing only, `wrap_bio`. A context of one's own for each
    configuration leaves nothing of the old one behind: no trusted root, no session to resume.
    """

    _watched: WatchedTls
    _protocols: list[str]
    _made: tuple[TlsConfig, ssl.SSLContext] | None

    @classmethod
    def of(cls, watched: WatchedTls, *protocols: str) -> LiveContext:
        """A context that agrees on one of `protocols` (ALPN), or on none with clients that have none."""
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context._watched = watched
        context._protocols = list(protocols)
        context._made = None
        return context

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """One connection's end."""
        config = self._watched.value
        if self._made is None or self._made[0] is not config:
            context = config.context()
            context.set_alpn_protocols(self._protocols)
            self._made = config, context
        return self._made[1].wrap_bio(*arguments, **options)
