from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config.auth_tokens import Group, Token
from app.errors import Code
from app.security.guard import Guard


def token(value: str, *groups: Group) -> Token:
    return Token(value, hashlib.sha256(value.encode()).digest(), frozenset(groups))


TOKENS = (token("p", Group.PREDICT), token("all", *Group), token("s", Group.STATUS))


@pytest.mark.parametrize(
    ("group", "authorization", "api_key", "code"),
    [
        (Group.PREDICT, "Bearer p", "", None),
        (Group.PREDICT, "bearer  p ", "", None),
        (Group.PREDICT, "", "p", None),
        (Group.PREDICT, "Basic eDp5", "p", None),
        (Group.ADMIN, "Bearer all", "", None),
        (Group.ADMIN, "Bearer p", "all", Code.PERMISSION_DENIED),
        (Group.STATUS, "", "p", Code.PERMISSION_DENIED),
        (Group.PREDICT, "", "", Code.UNAUTHENTICATED),
        (Group.PREDICT, "Bearer ", "", Code.UNAUTHENTICATED),
        (Group.PREDICT, "Basic eDp5", "", Code.UNAUTHENTICATED),
        (Group.PREDICT, "p", "", Code.UNAUTHENTICATED),
        (Group.PREDICT, "Bearer P", "", Code.UNAUTHENTICATED),
        (Group.PREDICT, "Bearer p\udc80", "", Code.UNAUTHENTICATED),
    ],
)
def test_refusals(group: Group, authorization: str, api_key: str, code: Code | None) -> None:
    error = Guard(lambda: TOKENS).refusal(group, authorization, api_key)
    assert (error and error.code) == code


def test_texts_say_what_to_do_and_hold_no_token() -> None:
    guard = Guard(lambda: TOKENS)
    texts = [
        error.message
        for error in (guard.refusal(Group.ADMIN, text, "") for text in ("", "Bearer nobody", "Bearer s"))
        if error is not None
    ]
    assert texts == [
        "A token is needed: send the header `Authorization: Bearer TOKEN` or `x-api-key: TOKEN`.",
        "The token is not known.",
        "The token is not good for admin requests; it is for: status.",
    ]


def test_what_changes_is_in_force_at_once() -> None:
    tokens: list[Sequence[Token]] = [TOKENS]
    guard = Guard(lambda: tokens[-1])
    assert guard.refusal(Group.PREDICT, "Bearer p", "") is None
    tokens.append([token("q", Group.PREDICT)])
    assert guard.refusal(Group.PREDICT, "Bearer p", "") is not None
    assert guard.refusal(Group.PREDICT, "Bearer q", "") is None


@given(st.text(), st.text(), st.sampled_from(Group))
def test_only_a_token_that_is_known_lets_in(authorization: str, api_key: str, group: Group) -> None:
    error = Guard(lambda: [token("a" * 40, *Group)]).refusal(group, authorization, api_key)
    assert error is not None
    assert error.code is Code.UNAUTHENTICATED
