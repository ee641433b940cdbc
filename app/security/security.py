"""What the flags say of security, read at the start and watched from then on."""

from __future__ import annotations

from app.config import auth_tokens
from app.options import Options
from app.security import tls
from app.security.guard import Guard
from app.security.tls import LiveContext
from app.security.watched import Poller, Watched


class Security:
    """The files, in force and watched.

    Attributes:
        grpc_tls: of the gRPC ports; None for plain ones.
        rest_context: of the REST port; None for a plain one.
        guard: asked about every request; None if nobody needs a token.
    """

    def __init__(self, options: Options) -> None:
        """Read the files.

        Raises:
            ServingError: one of them cannot be used.
        """
        grpc, rest, tokens = options.ssl_config_file, options.rest_ssl_config_file, options.auth_tokens_file
        self.grpc_tls = tls.watch("ssl_config_file", grpc) if grpc else None
        rest_tls = tls.watch("rest_ssl_config_file", rest) if rest else None
        self.rest_context = None if rest_tls is None else LiveContext.of(rest_tls, "http/1.1")
        watched = None
        if tokens:
            watched = Watched("auth_tokens_file", lambda: auth_tokens.read_file(tokens), lambda _: None)
        self.guard = None if watched is None else Guard(lambda: watched.value)
        self._poller = Poller([each for each in (self.grpc_tls, rest_tls, watched) if each is not None])

    def start(self) -> None:
        """Begin to watch the files."""
        self._poller.start()

    def stop(self) -> None:
        """End it."""
        self._poller.stop()
