"""`SSLConfig` of TensorFlow Serving: key, certificates and whether clients need one, checked.

A field holds PEM text, as in TensorFlow Serving, or (Ferry's own) the path of a file that does, as
secrets are mounted.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from typing import NoReturn

from app.config import text_proto
from app.errors import ServingError, cannot_read, invalid_argument, not_found

# The client package of TensorFlow Serving does not hold this message.
_FILE = """
    name: "tensorflow_serving/config/ssl_config.proto" package: "tensorflow.serving" syntax: "proto3"
    message_type {
      name: "SSLConfig"
      field { name: "server_key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
      field { name: "server_cert" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
      field { name: "custom_ca" number: 3 type: TYPE_STRING label: LABEL_OPTIONAL }
      field { name: "client_verify" number: 4 type: TYPE_BOOL label: LABEL_OPTIONAL }
    }
"""
_PEM = "-----BEGIN"
# TLS 1.2's with forward secrecy and authenticated encryption, the only ones that HTTP/2 allows (RFC 9113,
# appendix A). Those of TLS 1.3 are all of this kind.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclass(frozen=True)
class TlsConfig:
    """What a server needs for TLS. Every field is PEM.

    Attributes:
        file: the path that it was read from.
        key: private, of the certificate; never printed.
        certificate: of the server, followed by those between it and its root.
        ca: of clients; empty if they need none.
        client_verify: whether a client must have a certificate that `ca` vouches for.
    """

    file: str
    key: bytes = field(repr=False)
    certificate: bytes
    ca: bytes = b""
    client_verify: bool = False

    def context(self) -> ssl.SSLContext:
        """A server's context, from TLS 1.2 on, without ALPN.

        Raises:
            ServingError: INVALID_ARGUMENT, saying which of the parts cannot be used and why.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS)
        context.options |= ssl.OP_NO_RENEGOTIATION
        self._load_pair(context)
        if self.ca:
            try:
                context.load_verify_locations(cadata=self.ca.decode("ascii"))
            except (ssl.SSLError, ValueError):
                self._refuse("custom_ca holds no certificate in PEM form.")
        if self.client_verify:
            context.verify_mode = ssl.CERT_REQUIRED
            # As gRPC does: whatever custom_ca holds is trusted, a root or not.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    def _load_pair(self, context: ssl.SSLContext) -> None:
        # OpenSSL's context reads files only. These are in memory: a key never gets to a disk.
        pair = os.memfd_create("certificate-and-key")
        try:
            with os.fdopen(os.dup(pair), "wb") as file:
                file.write(self.key + b"\n" + self.certificate)
            context.load_cert_chain(f"/proc/self/fd/{pair}", password=self._refuse_password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                self._refuse("server_key does not belong to server_cert.")
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(
                    cadata=self.certificate.decode("ascii")
                )
            except (ssl.SSLError, ValueError):
                self._refuse("server_cert holds no certificate in PEM form.")
            self._refuse(f"server_key or server_cert cannot be used: {error.reason or 'no key in PEM form'}.")
        finally:
            os.close(pair)

    def _refuse_password(self) -> NoReturn:
        self._refuse("server_key is encrypted, and there is nobody to ask; give one without a passphrase.")

    def _refuse(self, reason: str) -> NoReturn:
        raise invalid_argument(f"{self.file}: {reason}")


def read_file(path: str) -> TlsConfig:
    """What a `--ssl_config_file` says, with the files that it names; `context` tells whether it works.

    Raises:
        ServingError: those of `text_proto.read_located`; INVALID_ARGUMENT for a part that is missing,
            NOT_FOUND or PERMISSION_DENIED for a file that cannot be read.
    """
    proto = text_proto.read_located(path, text_proto.message_class(_FILE, "tensorflow.serving.SSLConfig")())
    for name in ("server_key", "server_cert"):
        if not getattr(proto, name):
            raise invalid_argument(f"{path}: {name} is missing; give it as PEM, or the path of a PEM file.")
    if proto.client_verify and not proto.custom_ca:
        raise invalid_argument(
            f"{path}: client_verify needs custom_ca, the certificates that clients are verified with."
        )
    return TlsConfig(
        path,
        _pem(path, "server_key", proto.server_key),
        _pem(path, "server_cert", proto.server_cert),
        _pem(path, "custom_ca", proto.custom_ca) if proto.custom_ca else b"",
        proto.client_verify,
    )


def _pem(config: str, name: str, value: str) -> bytes:
    """The PEM text that a field holds or names, relative to the directory of `config`."""
    if _PEM in value:
        return value.encode()
    if "\n" in value:
        raise invalid_argument(f"{config}: {name} is neither PEM nor the path of a PEM file.")
    path = os.path.join(os.path.dirname(config), value)
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise not_found(f"{config}: {name} names {path}, which does not exist.") from None
    except OSError as error:
        raise ServingError(
            cannot_read(path, error.strerror).code,
            f"{config}: {name} names a file that cannot be read. {cannot_read(path, error.strerror).message}",
        ) from None
