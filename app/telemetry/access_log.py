"""The access log: one line for each request, beside the other events of the log."""

from __future__ import annotations

import logging
import re
from typing import Any
from urllib.parse import unquote

import orjson

from app.telemetry.observation import Observation

logger = logging.getLogger(__name__)

# What needs no quotes in `name=value`: no blanks, quotes or equals signs, nothing beyond ASCII.
_PLAIN = re.compile(r"[!#-<>-~]+")


class AccessLog:
    """Writes the lines."""

    def __init__(self, *, errors_only: bool) -> None:
        """Write a line for every request, or for those that failed."""
        self._errors_only = errors_only

    def write(self, seen: Observation) -> None:
        """Write the line of a request that is over, if it gets one."""
        if self._errors_only and not seen.failed:
            return
        found = fields(seen)
        text = " ".join(f"{name}={_quoted(value)}" for name, value in found.items())
        logger.info("access %s", text, extra=found)


def fields(seen: Observation) -> dict[str, Any]:
    """What a line says; without what is not known."""
    rest = seen.entrypoint == "REST"
    found: dict[str, Any] = {
        "protocol": seen.entrypoint,
        "method": seen.method if rest else None,
        "path": seen.path,
        "model": seen.model or None,
        "version": seen.version,
        "signature": seen.signature or ("serving_default" if seen.version is not None else None),
        "code": seen.status if rest else seen.code.name,
        "latency_ms": round((seen.ended - seen.began) / 1e6, 3),
        "request_bytes": seen.request_bytes,
        "response_bytes": seen.response_bytes,
        "trace_id": seen.trace_id or None,
        "peer": address(seen.peer) or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def address(peer: str) -> str:
    """`host:port` or `unix` from what transports and grpcio (`ipv4:…`, `ipv6:%5B…`, `unix:…`) give."""
    family, _, rest = peer.partition(":")
    if family in ("ipv4", "ipv6"):
        return unquote(rest)
    return "unix" if family == "unix" else peer


def _quoted(value: object) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    # As JSON: no client can begin a line of its own.
    return orjson.dumps(text.encode(errors="backslashreplace").decode()).decode()
