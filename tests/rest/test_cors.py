from __future__ import annotations

from typing import Any

import pytest

from app.options import Options
from app.rest.cors import Cors

SERVING = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


def headers(origin: str, **options: Any) -> dict[str, str]:
    return dict(Cors(Options(**options)).headers(origin))


def test_without_the_flag_there_are_none() -> None:
    assert not Cors(Options()).enabled
    assert Cors(Options(rest_api_enable_cors_support=True)).enabled


@pytest.mark.parametrize("origin", ["", "https://a.example"])
def test_without_a_list_they_are_tensorflow_servings(origin: str) -> None:
    assert headers(origin, rest_api_enable_cors_support=True) == SERVING


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://a.example", True),
        ("HTTPS://A.example", True),
        ("http://b:81", True),
        ("", False),
        ("null", False),
        ("http://a.example", False),
        ("http://b", False),
        ("https://a.example.evil", False),
        ("https://a.example, https://x", False),
    ],
)
def test_with_a_list_only_its_origins_are_let_in(origin: str, allowed: bool) -> None:
    origins = "https://a.example, http://B:81,"
    found = headers(origin, rest_api_enable_cors_support=True, cors_allowed_origins=origins)
    expected = {**SERVING, "Access-Control-Allow-Origin": origin} if allowed else {}
    assert found == {**expected, "Vary": "Origin"}


def test_where_tokens_are_needed_browsers_may_send_them() -> None:
    found = headers("", rest_api_enable_cors_support=True, auth_tokens_file="x")
    assert found["Access-Control-Allow-Headers"] == "Content-Type, Authorization, X-API-Key"
