"""How the tools reach a server that wants TLS or a token: files, headers, and the options that name them."""

from __future__ import annotations

import re
import shlex
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.errors import invalid_argument

if TYPE_CHECKING:  # the command line reads this module without it
    import grpc

_HEADER = re.compile(r"([A-Za-z0-9][\w.-]*)\s*:\s*([\x20-\x7e]*)\Z")


@dataclass(frozen=True)
class Access:
    """What a client shows, and what it trusts.

    Attributes:
        ca: PEM file of the authorities that servers' certificates come from; empty: the usual ones.
        cert: PEM file of the client's certificate; empty if it has none.
        key: PEM file of its key.
        token_file: file of a token, which goes with every request as `Authorization: Bearer …`.
        header: further headers, each `NAME: VALUE`; metadata over gRPC.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    token_file: str = ""
    header: tuple[str, ...] = ()

    def uses_files(self, *, tls: bool) -> bool:
        """Whether a file is read, with TLS or without."""
        return bool(self.token_file or (tls and (self.ca or self.cert)))

    def context(self) -> ssl.SSLContext:
        """For TLS over REST.

        Raises:
            ServingError: INVALID_ARGUMENT if a file cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
            if self.cert:
                context.load_cert_chain(self.cert, self.key or None)
        except OSError as error:
            names = ", ".join(filter(None, (self.ca, self.cert, self.key)))
            raise invalid_argument(f"TLS is not possible with {names}: {error}") from None
        return context

    def credentials(self) -> grpc.ChannelCredentials:
        """The same for gRPC."""
        import grpc

        self.context()  # says what is wrong with a file, which grpcio does not
        files = (self.ca, self.key or self.cert, self.cert)
        return grpc.ssl_channel_credentials(*(Path(name).read_bytes() if name else None for name in files))

    def headers(self) -> dict[str, str]:
        """The headers of every request; names in lower case, as gRPC wants them.

        Raises:
            ServingError: INVALID_ARGUMENT if one is none, or the token cannot be read.
        """
        found = {}
        for text in self.header:
            if (match := _HEADER.match(text)) is None:
                raise invalid_argument(f"--header `{text}`: write NAME: VALUE.")
            found[match.group(1).lower()] = match.group(2).rstrip()
        if self.token_file:
            try:
                found["authorization"] = f"Bearer {Path(self.token_file).read_text().strip()}"
            except (OSError, UnicodeDecodeError) as error:
                raise invalid_argument(f"--token-file {self.token_file}: {error}") from None
        return found

    def curl(self, url: str) -> str:
        """What curl needs for it: options, each followed by a space; a token stays in its file."""
        options = [f"-H {shlex.quote(text)} " for text in self.header]
        if self.token_file:
            options.append(f'-H "Authorization: Bearer $(cat {shlex.quote(self.token_file)})" ')
        if url.startswith("https:"):
            named = {"--cacert": self.ca, "--cert": self.cert, "--key": self.key}
            options += [f"{option} {shlex.quote(name)} " for option, name in named.items() if name]
        return "".join(options)


OPEN = Access()
"""No client certificate and no token; the usual authorities."""


def access_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options that an `Access` is made of; it gets that as `access`, checked."""

    @wraps(command)
    def run(*, ca: str, cert: str, key: str, token_file: str, header: tuple[str, ...], **others: Any) -> int:
        access = Access(ca, cert, key, token_file, header)
        if key and not cert:
            raise invalid_argument("--key goes with the certificate that --cert names.")
        access.headers()
        access.context()
        return command(access=access, **others)

    options = (
        click.option("--ca", default="", help="TLS: PEM file of the authorities to trust."),
        click.option("--cert", default="", help="TLS: PEM file of the client's own certificate."),
        click.option("--key", default="", help="TLS: PEM file of that certificate's key."),
        click.option("--token-file", default="", help="File of a token to send with every request."),
        click.option("--header", multiple=True, help="NAME: VALUE to send with every request."),
    )
    for option in reversed(options):
        run = option(run)
    return run
