"""A file in a remote store, as its driver describes it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from app.errors import invalid_argument

_HEX_MD5 = re.compile(r'"?([0-9a-f]{32})"?\Z')


@dataclass(frozen=True)
class RemoteObject:
    """A file of a version.

    Attributes:
        name: below the version's directory, with `/`; safe to be joined to a local directory.
        key: what its driver calls it.
        size: in bytes.
        tag: another one once the content is another.
        modified: when it was written, as a UNIX time; None if the store does not tell.
        md5: 16 bytes, if the store tells.
        md5_is_sure: False for what usually is the MD5, but may be anything: S3's ETag.
    """

    name: str
    key: str
    size: int
    tag: str
    modified: float | None = None
    md5: bytes | None = None
    md5_is_sure: bool = True


def remote_object(name: str, entry: Mapping[str, Any]) -> RemoteObject:
    """`name`, described by a driver's `entry`.

    Raises:
        ServingError: INVALID_ARGUMENT for a name that could lead out of its directory, or a size that
            is not known.
    """
    if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise invalid_argument(
            f"Object {entry['name']} cannot be fetched: {name!r} is not the name of a file in its version's "
            "directory. Remove or rename it."
        )
    if entry.get("size") is None:
        raise invalid_argument(f"Object {entry['name']} cannot be fetched: the store does not tell its size.")
    modified = _modified(entry)
    etag = str(entry.get("ETag") or entry.get("etag") or "")
    md5 = _content_md5(entry)
    is_sure = md5 is not None
    if md5 is None and (match := _HEX_MD5.match(str(entry.get("ETag", "")))):
        md5 = bytes.fromhex(match[1])
    return RemoteObject(
        name, str(entry["name"]), int(entry["size"]), etag or str(modified), modified, md5, is_sure
    )


def _content_md5(entry: Mapping[str, Any]) -> bytes | None:
    """The MD5 that Google (md5Hash), Azure (content_settings) or a web server (Content-MD5) keeps."""
    settings = entry.get("content_settings")
    kept = getattr(settings, "content_md5", None)
    if kept is None and isinstance(settings, Mapping):
        kept = settings.get("content_md5")
    kept = kept or entry.get("md5Hash") or entry.get("Content-MD5")
    if isinstance(kept, str):
        try:
            kept = base64.b64decode(kept, validate=True)
        except binascii.Error:
            return None
    return bytes(kept) if kept and len(kept) == 16 else None


def _modified(entry: Mapping[str, Any]) -> float | None:
    for key in ("LastModified", "last_modified", "updated", "mtime", "created", "Last-Modified"):
        value = entry.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):
            try:
                is_http = key == "Last-Modified"
                return (
                    parsedate_to_datetime(value) if is_http else datetime.fromisoformat(value)
                ).timestamp()
            except ValueError:
                continue
    return None
