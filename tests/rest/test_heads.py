from __future__ import annotations

import pytest

from app.rest.heads import Heads

REQUEST = b"POST /x HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"


@pytest.fixture
def heads() -> Heads:
    heads = Heads()
    heads.learn(REQUEST, "/x", 4)
    return heads


def test_the_same_head_with_another_body(heads: Heads) -> None:
    assert heads.find(REQUEST) == ("/x", b"body")
    assert heads.find(REQUEST.replace(b"body", b"\r\n\r\n")) == ("/x", b"\r\n\r\n")


@pytest.mark.parametrize(
    "data", [b"", b"\r\n\r\n", b" " + REQUEST, REQUEST[:-1], REQUEST + b"!", REQUEST.replace(b"/x", b"/y")]
)
def test_what_is_not_one_request_with_this_head(heads: Heads, data: bytes) -> None:
    assert heads.find(data) is None


@pytest.mark.parametrize(
    "data", [REQUEST + b"more", REQUEST[:-1], REQUEST.replace(b"/x", b"/" + b"x" * 1100)]
)
def test_what_is_not_kept(data: bytes) -> None:
    heads = Heads()
    heads.learn(data, "/x", 4)
    assert heads.find(data) is None


def test_only_so_many_are_kept(heads: Heads) -> None:
    for number in range(512):
        heads.learn(REQUEST.replace(b"/x", b"/%d" % number), f"/{number}", 4)
    assert heads.find(REQUEST) is None
    assert heads.find(REQUEST.replace(b"/x", b"/511")) == ("/511", b"body")
