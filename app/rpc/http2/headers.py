"""Header blocks: requests in, through `hpack` and a memory of blocks; answers out, as constant bytes.

A gRPC client sends the same few bytes for the headers of every call once its peer's table holds them.
A block that leaves the table as it is means the same until another block changes the table, so what
it means is remembered by its bytes. Answers use no dynamic table: their blocks never change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote

import hpack
from hpack.hpack import encode_integer

from app.errors import Code
from app.rpc.http2.frames import ErrorCode, Http2ConnectionError

# A header block may have so many bytes, encoded and decoded.
LARGEST_BLOCK = 65536
# What is announced, as gRPC's own limit; between the two a call fails, above the connection does.
LARGEST_LIST = 16384

_BLOCKS_KEPT = 64
_LARGEST_KEPT = 1024
_SIZE_UPDATES = 2  # that a block may begin with (RFC 7541, 4.2)
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_CONNECTION_SPECIFIC = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_REQUEST_PSEUDO = {b":method", b":path", b":scheme", b":authority"}
# Printable ASCII but for the percent sign, which stands for what is not.
_MESSAGE_SAFE = "".join(chr(number) for number in range(0x20, 0x7F) if chr(number) != "%")

ENCODINGS = ("identity", "deflate", "gzip")


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What the headers of a request say.

    Attributes:
        path: of the method, with its slash.
        timeout: seconds, None if the client sets none.
        encoding: of compressed messages.
        accepts: encodings that answers may have.
        http_status: what a request that is not gRPC is answered with; 200 for one that is.
        size: of the decoded list, as RFC 9113 counts it.
        well_formed: whether it is a request of HTTP at all.
        authorization: the header of this name, empty if there is none; never printed.
        api_key: the header `x-api-key`, the same.
        traceparent: the header of that name; empty if there is none.
        tracestate: likewise.
    """

    path: str
    timeout: float | None = None
    encoding: str = "identity"
    accepts: frozenset[str] = frozenset()
    http_status: int = 200
    size: int = 0
    well_formed: bool = True
    authorization: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)
    traceparent: str = ""
    tracestate: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether it asks for a call, by the rules."""
        return self.well_formed and self.http_status == 200 and self.size <= LARGEST_LIST


class HeaderReader:
    """Decodes the header blocks of one connection, in their order.

    Attributes:
        known: plain blocks that mean the same whenever they come, until another changes the table.
    """

    def __init__(self) -> None:
        """Begin with an empty table."""
        self._decoder = hpack.Decoder(LARGEST_BLOCK)
        self.known: dict[bytes, RequestHead] = {}

    def read(self, block: bytes) -> RequestHead:
        """What a complete block says.

        Raises:
            Http2ConnectionError: COMPRESSION_ERROR for what is no block, ENHANCE_YOUR_CALM for a list of more
                than LARGEST_BLOCK bytes: in both cases the table is lost.
        """
        known = self.known.get(block)
        if known is not None:
            return known
        _check_size_updates(block)
        before = self._table()
        try:
            fields = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except hpack.OversizedHeaderListError:
            raise Http2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many headers") from None
        except (hpack.HPACKError, IndexError, ValueError) as error:
            raise Http2ConnectionError(ErrorCode.COMPRESSION_ERROR, type(error).__name__) from None
        head = read_head(fields)
        if not _same_table(before, self._table()):
            self.known.clear()
        elif len(block) <= _LARGEST_KEPT and head.is_plain:
            if len(self.known) >= _BLOCKS_KEPT:
                self.known.clear()
            self.known[block] = head
        return head

    def _table(self) -> tuple[int, int, object]:
        """What differs once a block has added an entry to the table or changed its size."""
        table = self._decoder.header_table
        entries = table.dynamic_entries
        return table.maxsize, len(entries), entries[0] if entries else None


def _same_table(before: tuple[int, int, object], after: tuple[int, int, object]) -> bool:
    # The newest entry by identity: one that is equal may have pushed out another.
    return before[:2] == after[:2] and before[2] is after[2]


def _check_size_updates(block: bytes) -> None:
    """Refuse a block with more size updates than there is a reason for: each costs time."""
    position = updates = 0
    while position < len(block) and block[position] & 0xE0 == 0x20:
        updates += 1
        if updates > _SIZE_UPDATES:
            raise Http2ConnectionError(ErrorCode.COMPRESSION_ERROR, "too many table size updates")
        if block[position] & 0x1F == 0x1F:
            position += 1
            while position < len(block) and block[position] & 0x80:
                position += 1
        position += 1


def read_head(fields: Iterable[tuple[bytes, bytes]]) -> RequestHead:
    """The meaning of a list of headers.

    Args:
        fields: names and values in their order.
    """
    size = 0
    found: dict[bytes, bytes] = {}
    regular = malformed = False
    for name, value in fields:
        size += len(name) + len(value) + 32
        if name[:1] == b":":
            malformed |= regular or name not in _REQUEST_PSEUDO or name in found
        else:
            regular = True
        malformed |= (
            not _NAME.fullmatch(name)
            or name in _CONNECTION_SPECIFIC
            or (name == b"te" and value != b"trailers")
            or any(character in value for character in (0, 10, 13))
        )
        found[name] = found[name] + b"," + value if name in found else value
    malformed |= not (found.get(b":method") and found.get(b":path") and found.get(b":scheme"))
    timeout = _timeout(found[b"grpc-timeout"]) if b"grpc-timeout" in found else None
    return RequestHead(
        path=found.get(b":path", b"").decode("latin-1"),
        timeout=timeout,
        encoding=found.get(b"grpc-encoding", b"identity").decode("latin-1"),
        accepts=frozenset(
            word.strip() for word in found.get(b"grpc-accept-encoding", b"").decode("latin-1").split(",")
        ),
        http_status=_http_status(found),
        size=size,
        well_formed=not malformed,
        authorization=found.get(b"authorization", b"").decode("latin-1"),
        api_key=found.get(b"x-api-key", b"").decode("latin-1"),
        traceparent=found.get(b"traceparent", b"").decode("latin-1"),
        tracestate=found.get(b"tracestate", b"").decode("latin-1"),
    )


def _http_status(found: dict[bytes, bytes]) -> int:
    if found.get(b":method") != b"POST":
        return 405
    kind = found.get(b"content-type", b"")
    if kind != b"application/grpc" and not kind.startswith((b"application/grpc+", b"application/grpc;")):
        return 415
    return 200


def _timeout(value: bytes) -> float | None:
    match = _TIMEOUT.fullmatch(value)
    return int(match[1]) * _UNITS[match[2]] if match else None


# --- answers ---


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """A block of literals, none of which goes into the client's table."""
    parts = []
    for name, value in fields:
        if (name, value) == (":status", "200"):
            parts.append(b"\x88")  # entry 8 of the static table
        else:
            parts += [b"\x00", _string(name), _string(value)]
    return b"".join(parts)


def _string(text: str) -> bytes:
    data = text.encode("latin-1")
    return bytes(encode_integer(len(data), 7)) + data


_ANSWER = [
    (":status", "200"),
    ("content-type", "application/grpc"),
    ("grpc-accept-encoding", ",".join(ENCODINGS)),
]


@lru_cache(maxsize=len(ENCODINGS))
def answer_block(encoding: str = "identity") -> bytes:
    """The headers of an answer whose messages may be compressed with `encoding`."""
    return encode([*_ANSWER, *([("grpc-encoding", encoding)] if encoding != "identity" else [])])


def encoding_for(head: RequestHead, wanted: str) -> str:
    """The encoding of the messages of an answer: the one that is wanted, if the client can read it."""
    return wanted if wanted in head.accepts else "identity"


def status_block(
    code: Code, message: str, *, alone: bool = False, more: Iterable[tuple[str, str]] = ()
) -> bytes:
    """The trailers that end a call, with `more` of them; with `alone` they are the whole answer."""
    fields = [("grpc-status", str(int(code)))]
    if message:
        fields.append(("grpc-message", quote(message, safe=_MESSAGE_SAFE, errors="replace")))
    fields += more
    return encode(_ANSWER[:2] + fields if alone else fields)


OK_BLOCK = status_block(Code.OK, "")


def http_block(status: int) -> bytes:
    """The whole answer to a request that is not gRPC."""
    return encode([(":status", str(status))])
