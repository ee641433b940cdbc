"""grpcio's server credentials from a TLS configuration that may change."""

from __future__ import annotations

from typing import Any

import grpc

from app.config.tls import TlsConfig
from app.security.tls import WatchedTls


def credentials(watched: WatchedTls) -> Any:
    """Credentials of one port that give each new connection what is in force when it begins."""
    in_use = watched.value

    def fetch() -> Any:
        nonlocal in_use
        value = watched.value
        if value is in_use:
            return None  # grpcio goes on with what it has
        in_use = value
        return _configuration(value)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(in_use), fetch, require_client_authentication=in_use.client_verify
    )


def _configuration(config: TlsConfig) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(config.key, config.certificate)], root_certificates=config.ca or None
    )
