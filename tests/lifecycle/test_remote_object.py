from __future__ import annotations

import base64
import hashlib
import os
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import ServingError
from app.lifecycle.remote_object import remote_object

MD5 = hashlib.md5(b"x").digest()
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("entry", "tag", "md5", "is_sure"),
    [
        ({"ETag": f'"{MD5.hex()}"', "LastModified": NOW}, f'"{MD5.hex()}"', MD5, False),
        ({"ETag": f'"{MD5.hex()}-2"', "LastModified": NOW}, f'"{MD5.hex()}-2"', None, False),
        (
            {"etag": "CJ", "md5Hash": base64.b64encode(MD5).decode(), "updated": "2026-01-02T03:04:05Z"},
            "CJ",
            MD5,
            True,
        ),
        (
            {"etag": "0x1", "content_settings": {"content_md5": bytearray(MD5)}, "last_modified": NOW},
            "0x1",
            MD5,
            True,
        ),
        ({"Last-Modified": "Fri, 02 Jan 2026 03:04:05 GMT"}, str(NOW.timestamp()), None, False),
        ({"created": NOW, "Content-MD5": "no base64!"}, str(NOW.timestamp()), None, False),
    ],
    ids=["s3", "s3 in parts", "gs", "az", "http", "odd"],
)
def test_what_drivers_tell(entry: dict[str, Any], tag: str, md5: bytes | None, is_sure: bool) -> None:
    found = remote_object("a/b", {"name": "bucket/a/b", "size": 1, **entry})
    assert (found.name, found.key, found.size, found.tag) == ("a/b", "bucket/a/b", 1, tag)
    assert (found.md5, found.md5_is_sure) == (md5, is_sure)
    assert found.modified == NOW.timestamp()


def test_without_dates_or_a_size() -> None:
    assert remote_object("a", {"name": "a", "size": 1, "Last-Modified": "soon"}).modified is None
    with pytest.raises(ServingError, match="the store does not tell its size"):
        remote_object("a", {"name": "a", "size": None})


@given(st.text(st.sampled_from("./a\\\0 ~"), max_size=8))
@example("../a")
@example("/etc/passwd")
@example("a/../../b")
def test_no_name_leads_out_of_its_directory(name: str) -> None:
    try:
        found = remote_object(name, {"name": name, "size": 1})
    except ServingError:
        return
    path = os.path.normpath(os.path.join("/cache/v", found.name))
    assert path == f"/cache/v/{found.name}"
    assert "\0" not in path
