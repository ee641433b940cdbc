"""What browsers are told about pages of other origins."""

from __future__ import annotations

from collections.abc import Mapping

from app.options import Options


class Cors:
    """The CORS headers of every answer, as the flags have them.

    Attributes:
        enabled: whether there are any.
    """

    def __init__(self, options: Options) -> None:
        """TensorFlow Serving's headers, for everybody or for the origins that are listed."""
        self.enabled = options.rest_api_enable_cors_support
        self._origins = frozenset(
            origin.strip().lower() for origin in options.cors_allowed_origins.split(",") if origin.strip()
        )
        self._headers = {
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Allow-Methods": "POST, GET",
            "Access-Control-Allow-Headers": "Content-Type",
        }
        if options.auth_tokens_file:  # else a browser would keep the token to itself
            self._headers["Access-Control-Allow-Headers"] += ", Authorization, X-API-Key"

    def headers(self, origin: str) -> Mapping[str, str]:
        """The headers for a request from `origin`, empty if it names none; for `enabled` only."""
        if not self._origins:
            return self._headers
        if origin.lower() not in self._origins:
            return {"Vary": "Origin"}
        return {**self._headers, "Access-Control-Allow-Origin": origin, "Vary": "Origin"}
