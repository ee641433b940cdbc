from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from app.errors import Code, ServingError
from app.lifecycle.model_cache import ModelCache
from app.lifecycle.store import RemoteStore, Stores
from tests.support.stores import Proxy, S3Server

pytestmark = pytest.mark.usefixtures("aws_keys")

FILES = {"saved_model.pb": b"graph", "assets/words": b"a\nb\n"}


@pytest.fixture
def stores(s3: S3Server, proxy: Proxy) -> Iterator[Stores]:
    """Stores on the S3 server behind the proxy."""
    stores = Stores(lambda address: RemoteStore(address, s3.environment(proxy.endpoint)))
    yield stores
    stores.close()


@pytest.fixture
def cache(stores: Stores, tmp_path: Path) -> Iterator[ModelCache]:
    """A cache in the directory `cache` of the test."""
    cache = ModelCache(stores, str(tmp_path / "cache"))
    yield cache
    cache.close()


@pytest.fixture
def put(s3: S3Server, bucket: str) -> Put:
    return Put(s3, bucket)


class Put:
    """Uploads files of a version; what was called answers its URI."""

    def __init__(self, s3: S3Server, bucket: str) -> None:
        self._s3 = s3
        self._bucket = bucket

    def __call__(self, version: int, files: Mapping[str, bytes] = FILES) -> str:
        for name, content in files.items():
            self._s3.client.put_object(Bucket=self._bucket, Key=f"m/{version}/{name}", Body=content)
        return f"s3://{self._bucket}/m/{version}"


def content(directory: str | Path) -> dict[str, bytes]:
    root = Path(directory)
    return {
        file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()
    }


def kept(tmp_path: Path) -> list[Path]:
    return [*(tmp_path / "cache/versions").iterdir(), *(tmp_path / "cache/partial").iterdir()]


def read(proxy: Proxy) -> list[str]:
    """The objects read, without listings."""
    return [path for path in proxy.paths if path.partition("/m/")[2]]


def test_a_version_is_fetched_whole_and_once(put: Put, cache: ModelCache, proxy: Proxy) -> None:
    uri = put(1)
    path = cache.fetch("m", 1, uri)
    assert content(path) == FILES
    assert os.stat(path).st_mode & 0o777 == 0o700
    assert len(read(proxy)) == 2
    assert cache.fetch("m", 1, uri) == path
    assert len(read(proxy)) == 2


def test_the_next_server_finds_what_is_kept(
    put: Put, cache: ModelCache, stores: Stores, proxy: Proxy, tmp_path: Path
) -> None:
    uri = put(1)
    path = cache.fetch("m", 1, uri)
    cache.close()
    proxy.paths.clear()
    again = ModelCache(stores, str(tmp_path / "cache"))
    assert again.fetch("m", 1, uri) == path
    assert read(proxy) == []
    again.close()


def test_what_has_changed_is_fetched_anew(put: Put, cache: ModelCache, tmp_path: Path) -> None:
    old = cache.fetch("m", 1, put(1))
    new = cache.fetch("m", 1, put(1, {"saved_model.pb": b"GRAPH"}))
    assert content(new) == {**FILES, "saved_model.pb": b"GRAPH"}
    assert old != new
    assert len(kept(tmp_path)) == 1


def test_what_is_damaged_on_disk_is_fetched_anew(put: Put, cache: ModelCache) -> None:
    uri = put(1)
    path = Path(cache.fetch("m", 1, uri))
    (path / "saved_model.pb").write_bytes(b"gr")
    assert content(cache.fetch("m", 1, uri)) == FILES
    (path / "assets/words").unlink()
    assert content(cache.fetch("m", 1, uri)) == FILES


def test_the_last_who_holds_a_version_removes_it(put: Put, cache: ModelCache, tmp_path: Path) -> None:
    uri = put(1)
    cache.drop("m", 1, "/local/path")
    cache.fetch("m", 1, uri)
    cache.fetch("other", 1, uri)
    cache.drop("m", 1, uri)
    assert len(kept(tmp_path)) == 1
    cache.drop("other", 1, uri)
    assert kept(tmp_path) == []


def test_what_turned_out_damaged_is_fetched_anew(put: Put, cache: ModelCache, proxy: Proxy) -> None:
    uri = put(1)
    cache.fetch("m", 1, uri)
    cache.discard(uri)
    assert content(cache.fetch("m", 1, uri)) == FILES
    assert len(read(proxy)) == 4


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        ("refuse", Code.PERMISSION_DENIED, "Could not fetch from s3://"),
        ("cut", Code.UNAVAILABLE, "Could not fetch from s3://"),
    ],
)
def test_a_store_that_fails_half_way_leaves_nothing(
    put: Put, cache: ModelCache, proxy: Proxy, tmp_path: Path, fault: str, code: Code, text: str
) -> None:
    uri = put(1)
    proxy.fault = lambda path: fault if path.endswith("saved_model.pb") else ""
    with pytest.raises(ServingError) as raised:
        cache.fetch("m", 1, uri)
    assert raised.value.code is code
    assert raised.value.message.startswith(text)
    assert kept(tmp_path) == []
    proxy.fault = lambda _: ""
    assert content(cache.fetch("m", 1, uri)) == FILES


def test_damage_on_the_way_is_noticed(put: Put, cache: ModelCache, proxy: Proxy, tmp_path: Path) -> None:
    uri = put(1)
    faults = iter(["damage"])
    proxy.fault = lambda path: next(faults, "") if path.endswith("words") else ""
    with pytest.raises(ServingError, match=r"DATA_LOSS: s3://.*/m/1/assets/words was damaged on its way"):
        cache.fetch("m", 1, uri)
    assert kept(tmp_path) == []


def test_a_tag_that_is_no_digest_is_made_up_for_by_reading_twice(
    put: Put, cache: ModelCache, proxy: Proxy
) -> None:
    # As with encrypted objects: what comes is the same each time and never has the tag as its MD5.
    uri = put(1)
    proxy.fault = lambda path: "damage" if path.endswith("words") else ""
    found = content(cache.fetch("m", 1, uri))
    assert found["saved_model.pb"] == FILES["saved_model.pb"]
    assert len([path for path in read(proxy) if path.endswith("words")]) == 2


def test_a_version_that_changes_meanwhile_is_not_taken(
    put: Put, cache: ModelCache, proxy: Proxy, tmp_path: Path
) -> None:
    uri = put(1)

    def change(path: str) -> str:
        if path.endswith("words"):
            proxy.fault = lambda _: ""
            put(1, {"saved_model.pb": b"other"})
        return ""

    proxy.fault = change
    with pytest.raises(ServingError, match=r"ABORTED|DATA_LOSS"):
        cache.fetch("m", 1, uri)
    assert kept(tmp_path) == []
    assert content(cache.fetch("m", 1, uri)) == {**FILES, "saved_model.pb": b"other"}


def test_a_version_that_gains_a_file_meanwhile_is_not_taken(
    put: Put, cache: ModelCache, proxy: Proxy
) -> None:
    uri = put(1)

    def change(path: str) -> str:
        if path.endswith("words"):
            put(1, {"assets/more": b"x"})
        return ""

    proxy.fault = change
    with pytest.raises(ServingError, match=r"ABORTED: s3://.*/m/1 changed while it was fetched"):
        cache.fetch("m", 1, uri)


def test_a_version_that_is_not_whole_is_not_fetched(put: Put, cache: ModelCache) -> None:
    uri = put(1, {"saved_model.pb": b"x", "variables/variables.index": b"x"})
    with pytest.raises(
        ServingError, match=r"FAILED_PRECONDITION: s3://.* It has no variables.data yet. Upload"
    ):
        cache.fetch("m", 1, uri)


def test_a_full_disk_is_told_before_anything_is_fetched(
    put: Put, cache: ModelCache, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = put(1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(ServingError) as raised:
        cache.fetch("m", 1, uri)
    assert str(raised.value) == (
        f"RESOURCE_EXHAUSTED: Fetching {uri} needs 67 MB, and {tmp_path}/cache has 1 MB free. "
        "Free some, or name a larger place with --model_cache_dir."
    )
    assert read(proxy) == []


def test_room_is_made_by_what_nobody_holds(
    put: Put, cache: ModelCache, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        cache.fetch("m", number, put(number))
    cache.close()
    now = ModelCache(stores, str(tmp_path / "cache"))
    held = now.fetch("m", 2, put(2))
    usage = shutil.disk_usage(tmp_path)
    versions = tmp_path / "cache/versions"

    def two_fit(_: object) -> object:
        return usage._replace(free=0 if len(list(versions.iterdir())) > 2 else 1 << 40)

    monkeypatch.setattr(shutil, "disk_usage", two_fit)
    new = now.fetch("m", 4, put(4))
    names = {path.name for path in versions.iterdir()}
    assert {Path(held).name, Path(new).name} <= names
    assert len(names) == 3, "version 1, the longest unused, is gone"
    now.close()


def test_what_was_half_fetched_or_unused_for_long_is_removed_at_the_start(
    put: Put, cache: ModelCache, stores: Stores, tmp_path: Path
) -> None:
    old, new = Path(cache.fetch("m", 1, put(1))), Path(cache.fetch("m", 2, put(2)))
    cache.close()
    os.utime(old, (0, 0))
    (tmp_path / "cache/partial/left/over").mkdir(parents=True)
    again = ModelCache(stores, str(tmp_path / "cache"))
    again.open()
    assert kept(tmp_path) == [new]
    again.close()


def test_a_directory_belongs_to_one_server(cache: ModelCache, stores: Stores, tmp_path: Path) -> None:
    cache.open()
    other = ModelCache(stores, str(tmp_path / "cache"))
    with pytest.raises(ServingError) as raised:
        other.open()
    assert str(raised.value) == (
        f"FAILED_PRECONDITION: --model_cache_dir={tmp_path}/cache is in use by another server. "
        "Give each one its own."
    )
    cache.close()
    other.open()
    other.close()


def test_a_directory_that_cannot_be_made_is_told(stores: Stores, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServingError, match=f"Cannot keep models in {tmp_path}/file/cache: Not a directory"):
        ModelCache(stores, str(tmp_path / "file/cache")).open()


def test_a_temporary_directory_is_ours_alone_and_goes_at_the_end(
    stores: Stores, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second = ModelCache(stores), ModelCache(stores)
    path = first.fetch("m", 1, put(1))
    second.open()
    assert content(path) == FILES, "another server's start takes nothing from one that runs"
    assert all(found.stat().st_mode & 0o777 == 0o700 for found in tmp_path.iterdir())
    first.close()
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_server_left_goes_at_the_next_start(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "ferry-models-dead/versions").mkdir(parents=True)
    (tmp_path / "ferry-models-dead/.lock").touch()
    (tmp_path / "ferry-models-is-no-cache").mkdir()
    cache = ModelCache(stores)
    root = cache.open()
    assert set(tmp_path.iterdir()) == {root, tmp_path / "ferry-models-is-no-cache"}
    cache.close()


def test_two_models_that_want_the_same_at_once_fetch_it_once(
    put: Put, cache: ModelCache, proxy: Proxy
) -> None:
    uri = put(1)
    paths: list[str] = []
    threads = [
        threading.Thread(target=lambda name=name: paths.append(cache.fetch(name, 1, uri))) for name in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1
    assert len(paths) == 2
    assert len(read(proxy)) == 2
