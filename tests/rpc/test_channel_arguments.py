from __future__ import annotations

import pytest

from app.rpc.channel_arguments import channel_arguments

OURS = {"grpc.max_receive_message_length": 2**31 - 1, "grpc.max_send_message_length": -1}


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        (",", {}),
        ("a=1,b=text,", {"a": 1, "b": "text"}),
        ("a=-1", {"a": -1}),
        ("a=99999999999", {"a": "99999999999"}),
        ("a=2147483648", {"a": "2147483648"}),
        ("a=b=c", {"a": "b=c"}),
        ("a=1_0", {"a": "1_0"}),
        ("a=", {"a": ""}),
        ("grpc.max_receive_message_length=5", {"grpc.max_receive_message_length": 5}),
    ],
)
def test_arguments_are_numbers_where_they_can_be(text: str, arguments: dict[str, int | str]) -> None:
    assert channel_arguments(text) == OURS | arguments
