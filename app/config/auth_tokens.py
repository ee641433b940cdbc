"""The file of `--auth_tokens_file`: who may ask for what, by token.

token { name: "shop" value: "a long random text" allow: PREDICT }
token { name: "prometheus" sha256: "64 hexadecimal digits" allow: [STATUS, ADMIN] }
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.config import text_proto
from app.errors import ServingError, invalid_argument

_FILE = """
    name: "ferry/auth_tokens.proto" package: "ferry" syntax: "proto3"
    enum_type {
      name: "Group"
      value { name: "NONE" number: 0 } value { name: "PREDICT" number: 1 }
      value { name: "STATUS" number: 2 } value { name: "ADMIN" number: 3 }
    }
    message_type {
      name: "Token"
      field { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
      field { name: "value" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
      field { name: "sha256" number: 3 type: TYPE_STRING label: LABEL_OPTIONAL }
      field { name: "allow" number: 4 type: TYPE_ENUM type_name: ".ferry.Group" label: LABEL_REPEATED }
    }
    message_type {
      name: "AuthTokens"
      field { name: "token" number: 1 type: TYPE_MESSAGE type_name: ".ferry.Token" label: LABEL_REPEATED }
    }
"""
# What fits into a header, and into `Authorization: Bearer` without quotes.
_VALUE = re.compile(r"[!-~]+")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class Group(enum.Enum):
    """A part of the API that a token can be good for."""

    PREDICT = "predict"
    STATUS = "status"
    ADMIN = "admin"


@dataclass(frozen=True)
class Token:
    """A token, of which only the digest is kept.

    Attributes:
        name: whose it is; for the file's readers.
        digest: SHA-256 of the token, 32 bytes.
        groups: what it is good for.
    """

    name: str
    digest: bytes
    groups: frozenset[Group]


def read_file(path: str) -> Sequence[Token]:
    """The tokens of a `--auth_tokens_file`, at least one.

    Raises:
        ServingError: those of `text_proto.read_located`; INVALID_ARGUMENT for what is no token, saying
            which; no text holds a token.
    """
    try:
        proto = text_proto.read_located(path, text_proto.message_class(_FILE, "ferry.AuthTokens")())
    except ServingError as error:
        # The parser's texts quote what it does not understand, which may be a token.
        place = re.match(re.escape(path) + r":\d+:\d+: ", error.message)
        if place is None:
            raise
        raise invalid_argument(f"{place[0]}not a list of `token {{ name value|sha256 allow }}`.") from None
    tokens = tuple(_token(path, number, entry) for number, entry in enumerate(proto.token, 1))
    if not tokens:
        raise invalid_argument(f"{path}: no token; nobody could ask for anything.")
    if len({token.digest for token in tokens}) < len(tokens):
        raise invalid_argument(f"{path}: the same token is there twice; list all it allows in one place.")
    return tokens


def _token(path: str, number: int, entry: Any) -> Token:
    which = f"{path}: token {number}" + (f" (`{entry.name}`)" if entry.name else "")
    if bool(entry.value) == bool(entry.sha256):
        raise invalid_argument(f"{which} must have either value or sha256.")
    if entry.value and not _VALUE.fullmatch(entry.value):
        raise invalid_argument(f"{which}: value must be printable ASCII without blanks.")
    if entry.sha256 and not _SHA256.fullmatch(entry.sha256):
        raise invalid_argument(f"{which}: sha256 must have 64 hexadecimal digits.")
    groups = entry.DESCRIPTOR.fields_by_name["allow"].enum_type.values_by_number
    if not entry.allow or any(number == 0 or number not in groups for number in entry.allow):
        raise invalid_argument(f"{which}: allow must name PREDICT, STATUS or ADMIN.")
    digest = hashlib.sha256(entry.value.encode()).digest() if entry.value else bytes.fromhex(entry.sha256)
    return Token(entry.name, digest, frozenset(Group[groups[number].name] for number in entry.allow))
