"""Tells by its token whether a client may ask for something."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence

from app.config.auth_tokens import Group, Token
from app.errors import Code, ServingError

_BEARER = "bearer "


class Guard:
    """Refuses clients without a token, or with one that is not good for what they ask. For any thread."""

    def __init__(self, tokens: Callable[[], Sequence[Token]]) -> None:
        """Ask `tokens` for those in force, at every check."""
        self._tokens = tokens

    def refusal(self, group: Group, authorization: str, api_key: str) -> ServingError | None:
        """Why a request is refused; None if it is not.

        Every token is compared, in constant time and by its digest, so that the time tells nothing.

        Args:
            group: what is asked for.
            authorization: the header `Authorization`, empty if there is none. `Bearer TOKEN` counts.
            api_key: the header `x-api-key`; counts where there is no bearer token.

        Returns:
            UNAUTHENTICATED without a token or with one that is not known, PERMISSION_DENIED with one that
            is not good for `group`.
        """
        bearer = authorization[:7].lower() == _BEARER
        given = authorization[7:].strip() if bearer else api_key
        if not given:
            return ServingError(
                Code.UNAUTHENTICATED,
                "A token is needed: send the header `Authorization: Bearer TOKEN` or `x-api-key: TOKEN`.",
            )
        digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
        found = None
        for token in self._tokens():
            if hmac.compare_digest(token.digest, digest):
                found = token
        if found is None:
            return ServingError(Code.UNAUTHENTICATED, "The token is not known.")
        if group not in found.groups:
            good_for = ", ".join(sorted(allowed.value for allowed in found.groups))
            return ServingError(
                Code.PERMISSION_DENIED,
                f"The token is not good for {group.value} requests; it is for: {good_for}.",
            )
        return None
