from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.errors import Code, ServingError
from app.lifecycle.store import RemoteStore, Stores, address_of
from tests.support.process import free_port
from tests.support.stores import Proxy, S3Server, WebServer

pytestmark = pytest.mark.usefixtures("aws_keys")


@pytest.fixture
def opened() -> Iterator[dict[str, RemoteStore]]:
    """Stores that are closed after the test."""
    stores: dict[str, RemoteStore] = {}
    yield stores
    for store in stores.values():
        store.close()


@pytest.fixture
def s3_store(s3: S3Server, bucket: str) -> Iterator[RemoteStore]:
    store = RemoteStore(f"s3://{bucket}", s3.environment())
    yield store
    store.close()


@pytest.fixture
def flaky_store(s3: S3Server, bucket: str, proxy: Proxy) -> Iterator[RemoteStore]:
    """The same behind the proxy."""
    store = RemoteStore(f"s3://{bucket}", s3.environment(proxy.endpoint))
    yield store
    store.close()


def put(s3: S3Server, bucket: str, files: Mapping[str, bytes]) -> None:
    for key, body in files.items():
        s3.client.put_object(Bucket=bucket, Key=key, Body=body)


def test_the_address_is_the_scheme_and_what_holds_the_path() -> None:
    assert address_of("s3://bucket/a/b") == "s3://bucket"
    assert address_of("https://host:8443/a") == "https://host:8443"
    stores = Stores()
    assert stores.of("s3://bucket/a") is stores.of("s3://bucket/b")
    assert stores.of("s3://bucket/a") is not stores.of("gs://bucket/a")


def test_s3_lists_directories_and_files(s3: S3Server, bucket: str, s3_store: RemoteStore) -> None:
    files = {"m/1/a": b"a", "m/10/x": b"x", "m/1/sub/b": b"bb", "m/1/": b"", "m/README": b"r", "mm/3/c": b"c"}
    put(s3, bucket, files)
    assert s3_store.directories(f"s3://{bucket}/m") == ["1", "10"]
    a, b = s3_store.objects(f"s3://{bucket}/m/1")
    assert (a.name, a.size, b.name, b.size) == ("a", 1, "sub/b", 2)
    assert a.md5 == bytes.fromhex("0cc175b9c0f1b6a831c399e269772661")
    assert not a.md5_is_sure
    assert a.modified is not None
    assert abs(a.modified - datetime.now(UTC).timestamp()) < 60


def test_s3_is_listed_anew_each_time(s3: S3Server, bucket: str, s3_store: RemoteStore) -> None:
    put(s3, bucket, {"m/1/a": b"a"})
    (before,) = s3_store.objects(f"s3://{bucket}/m/1")
    put(s3, bucket, {"m/1/a": b"b", "m/2/a": b"a"})
    (after,) = s3_store.objects(f"s3://{bucket}/m/1")
    assert before.tag != after.tag
    assert s3_store.directories(f"s3://{bucket}/m") == ["1", "2"]


def test_s3_files_come_whole_in_parts_too(
    s3: S3Server, bucket: str, s3_store: RemoteStore, tmp_path: Path
) -> None:
    large = bytes(range(256)) * (100 << 10)  # 25 MiB: several blocks
    put(s3, bucket, {"m/1/a/small": b"a", "m/1/large": large})
    s3_store.download(s3_store.objects(f"s3://{bucket}/m/1"), str(tmp_path))
    assert (tmp_path / "a/small").read_bytes() == b"a"
    assert (tmp_path / "large").read_bytes() == large


def test_what_is_not_there_is_not_found(bucket: str, s3_store: RemoteStore) -> None:
    for ask in (s3_store.directories, s3_store.objects):
        with pytest.raises(ServingError) as raised:
            ask(f"s3://{bucket}/no")
        assert raised.value.code is Code.NOT_FOUND
        assert raised.value.message.startswith(f"s3://{bucket}/no not found in the store")


def test_a_missing_bucket_is_not_found(s3: S3Server, opened: dict[str, RemoteStore]) -> None:
    opened["it"] = store = RemoteStore("s3://nowhere", s3.environment())
    with pytest.raises(ServingError, match="NOT_FOUND: s3://nowhere/m not found"):
        store.directories("s3://nowhere/m")


def test_refused_credentials_are_told_with_what_to_check(
    bucket: str, flaky_store: RemoteStore, proxy: Proxy
) -> None:
    proxy.fault = lambda _: "refuse"
    with pytest.raises(ServingError) as raised:
        flaky_store.directories(f"s3://{bucket}/m")
    assert raised.value.code is Code.PERMISSION_DENIED
    assert f"Could not list s3://{bucket}/m: " in raised.value.message
    assert "Check the credentials: AWS_ACCESS_KEY_ID" in raised.value.message


def test_missing_credentials_are_told_with_what_to_check(
    s3: S3Server, opened: dict[str, RemoteStore], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    opened["it"] = store = RemoteStore("s3://bucket", s3.environment())
    with pytest.raises(
        ServingError, match=r"PERMISSION_DENIED: Could not list s3://bucket/m: .*AWS_ACCESS_KEY_ID"
    ):
        store.directories("s3://bucket/m")


def test_a_store_that_nobody_answers_for_is_unavailable(opened: dict[str, RemoteStore]) -> None:
    environment = {"S3_ENDPOINT": f"127.0.0.1:{free_port()}", "S3_USE_HTTPS": "0", "AWS_REGION": "us-east-1"}
    opened["it"] = store = RemoteStore("s3://bucket", environment)
    with pytest.raises(ServingError, match=r"UNAVAILABLE: Could not list s3://bucket/m: .*Check the address"):
        store.directories("s3://bucket/m")


def test_a_store_that_hangs_is_given_up(
    bucket: str, flaky_store: RemoteStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.lifecycle.store._LIST_SECONDS", 0.2)
    proxy.fault = lambda _: "hang"
    with pytest.raises(ServingError, match=r"UNAVAILABLE: .*no answer in time"):
        flaky_store.directories(f"s3://{bucket}/m")


def test_a_connection_cut_once_is_taken_up_again(
    s3: S3Server, bucket: str, flaky_store: RemoteStore, proxy: Proxy, tmp_path: Path
) -> None:
    put(s3, bucket, {"m/1/a": b"0123456789" * 1000})
    objects = flaky_store.objects(f"s3://{bucket}/m/1")
    cuts = iter(["cut"])
    proxy.fault = lambda path: next(cuts, "") if path.endswith("/a") else ""
    flaky_store.download(objects, str(tmp_path))
    assert (tmp_path / "a").read_bytes() == b"0123456789" * 1000


def test_one_file_that_fails_ends_the_others(
    s3: S3Server, bucket: str, flaky_store: RemoteStore, proxy: Proxy, tmp_path: Path
) -> None:
    put(s3, bucket, {"m/1/a": b"a", "m/1/b": b"b"})
    objects = flaky_store.objects(f"s3://{bucket}/m/1")
    proxy.fault = lambda path: {"/m/1/a": "hang", "/m/1/b": "refuse"}.get(path[path.find("/m/") :], "")
    with pytest.raises(ServingError, match="PERMISSION_DENIED"):
        flaky_store.download(objects, str(tmp_path))


@pytest.mark.parametrize("key", ["m/1/../../evil", "m/1/a//b", "m/1//etc/passwd", "m/1/./a"])
def test_names_that_lead_elsewhere_are_refused(
    s3: S3Server, bucket: str, s3_store: RemoteStore, key: str
) -> None:
    put(s3, bucket, {"m/1/saved_model.pb": b"x", key: b"x"})
    with pytest.raises(ServingError, match=r"INVALID_ARGUMENT: Object .* cannot be fetched"):
        s3_store.objects(f"s3://{bucket}/m/1")


def test_a_name_that_is_file_and_directory_is_refused(
    s3: S3Server, bucket: str, s3_store: RemoteStore
) -> None:
    put(s3, bucket, {"m/1/a": b"x", "m/1/a/b": b"x"})
    with pytest.raises(ServingError, match="cannot be a directory: a/b is in the way"):
        s3_store.objects(f"s3://{bucket}/m/1")


def test_index_pages_are_listings(web: WebServer, tmp_path: Path, opened: dict[str, RemoteStore]) -> None:
    for name in ("m/1/saved_model.pb", "m/1/assets/two words.txt", "m/12/saved_model.pb", "m/notes.txt"):
        (tmp_path / "web" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "web" / name).write_text(name)
    opened["it"] = store = RemoteStore(web.address)
    assert store.directories(f"{web.address}/m") == ["1", "12"]
    objects = store.objects(f"{web.address}/m/1")
    assert [(item.name, item.size) for item in objects] == [
        ("assets/two words.txt", 24),
        ("saved_model.pb", 18),
    ]
    assert all(item.modified for item in objects)
    (tmp_path / "got").mkdir()
    store.download(objects, str(tmp_path / "got"))
    assert (tmp_path / "got/assets/two words.txt").read_text() == "m/1/assets/two words.txt"
    with pytest.raises(ServingError, match="NOT_FOUND"):
        store.directories(f"{web.address}/no")


def test_a_closed_store_opens_anew(s3: S3Server, bucket: str, s3_store: RemoteStore) -> None:
    put(s3, bucket, {"m/1/a": b"a"})
    assert s3_store.directories(f"s3://{bucket}/m") == ["1"]
    s3_store.close()
    assert s3_store.directories(f"s3://{bucket}/m") == ["1"]


def test_nothing_runs_before_it_is_asked() -> None:
    before = threading.active_count()
    RemoteStore("s3://bucket")
    assert threading.active_count() == before
