from __future__ import annotations

from app.rpc.addresses import authority


def test_the_address_of_a_port() -> None:
    assert authority("127.0.0.1", 8500) == "127.0.0.1:8500"
    assert authority("::1", 8500) == "[::1]:8500"
