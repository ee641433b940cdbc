"""`--grpc_channel_arguments`: the server arguments of gRPC's own library, for either transport."""

from __future__ import annotations

import re
from collections.abc import Mapping

_DIGITS = re.compile(r"[+-]?[0-9]{1,10}")
_LARGEST_MESSAGE = 2**31 - 1


def channel_arguments(text: str, max_connections: int = 0) -> Mapping[str, int | str]:
    """The arguments in `key=value,key=value`, over the ones that Ferry sets.

    A value that an int32 holds is a number, any other is text.

    Args:
        text: what the user gave.
        max_connections: at a time; 0 for any number.
    """
    arguments: dict[str, int | str] = {
        "grpc.max_receive_message_length": _LARGEST_MESSAGE,
        "grpc.max_send_message_length": -1,
    }
    if max_connections:
        arguments["grpc.max_allowed_incoming_connections"] = max_connections
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        is_int32 = _DIGITS.fullmatch(value) and -(1 << 31) <= int(value) < 1 << 31
        arguments[key] = int(value) if is_int32 else value
    return arguments
