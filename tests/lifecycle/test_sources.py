from __future__ import annotations

import queue
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import fsspec
import pytest

from app.lifecycle.source import SourceModel
from app.lifecycle.sources import Sources
from app.lifecycle.store import RemoteStore, Stores
from tests.support.process import wait_until
from tests.support.stores import Proxy, S3Server

pytestmark = pytest.mark.usefixtures("aws_keys")

Told = tuple[str, dict[int, str]]


class Target:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: queue.SimpleQueue[Told] = queue.SimpleQueue()

    def set_aspired(self, model: str, versions: Mapping[int, str]) -> None:
        self.told.put((model, dict(versions)))

    def wait_for(self, expected: Told) -> list[Told]:
        """What came until `expected` did."""
        told = []
        while (now := self.told.get(timeout=30)) != expected:
            told.append(now)
        return told


@pytest.fixture
def target() -> Target:
    return Target()


@pytest.fixture
def stores(s3: S3Server, proxy: Proxy) -> Iterator[Stores]:
    """Memory, and the S3 server behind the proxy."""
    stores = Stores(lambda address: RemoteStore(address, s3.environment(proxy.endpoint)))
    yield stores
    proxy.close()
    stores.close()


@pytest.fixture
def sources(target: Target, stores: Stores) -> Iterator[Sources]:
    sources = Sources(target, 0.1, stores, 0.1)
    sources.start()
    yield sources
    sources.stop()


def remote(*versions: int) -> str:
    """A new base path in memory."""
    base = f"memory://{uuid.uuid4().hex}/m"
    for version in versions:
        add(base, version)
    return base


def add(base: str, version: int) -> None:
    fsspec.filesystem("memory").pipe_file(f"{base}/{version}/saved_model.pb", b"x")


def local(tmp_path: Path, version: int) -> str:
    (tmp_path / str(version)).mkdir(parents=True)
    return str(tmp_path)


def test_local_and_remote_versions_are_told(sources: Sources, target: Target, tmp_path: Path) -> None:
    far, near = remote(1, 2), local(tmp_path, 3)
    sources.set_models({"far": SourceModel(far), "near": SourceModel(near)})
    told = [target.told.get(timeout=30), target.told.get(timeout=30)]
    while len({name for name, _ in told}) < 2:
        told.append(target.told.get(timeout=30))
    assert ("far", {2: f"{far}/2"}) in told
    assert ("near", {3: f"{near}/3"}) in told


def test_new_remote_versions_are_found_by_polling(sources: Sources, target: Target) -> None:
    far = remote(1)
    sources.set_models({"m": SourceModel(far)})
    target.wait_for(("m", {1: f"{far}/1"}))
    add(far, 2)
    target.wait_for(("m", {2: f"{far}/2"}))


def test_a_model_that_moves_from_near_to_far_and_back_is_never_unwanted(
    sources: Sources, target: Target, tmp_path: Path
) -> None:
    far, other, near = remote(1), remote(2), local(tmp_path, 3)
    told = []
    for base, version in ((near, 3), (far, 1), (other, 2), (near, 3)):
        sources.set_models({"m": SourceModel(base)})
        told += target.wait_for(("m", {version: f"{base}/{version}"}))
    assert ("m", {}) not in told


def test_a_remote_model_that_is_configured_no_more_is_wanted_no_more(
    sources: Sources, target: Target
) -> None:
    far = remote(1)
    sources.set_models({"m": SourceModel(far)})
    target.wait_for(("m", {1: f"{far}/1"}))
    sources.set_models({})
    target.wait_for(("m", {}))
    assert sources._remote == {}


def test_what_is_wrong_with_a_store_is_told_once_and_changes_nothing(
    sources: Sources,
    target: Target,
    s3: S3Server,
    bucket: str,
    proxy: Proxy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = f"s3://{bucket}/m"
    s3.client.put_object(Bucket=bucket, Key="m/1/saved_model.pb", Body=b"x")
    sources.set_models({"m": SourceModel(base)})
    target.wait_for(("m", {1: f"{base}/1"}))
    proxy.fault = lambda _: "refuse"
    s3.client.put_object(Bucket=bucket, Key="m/2/saved_model.pb", Body=b"x")
    asked = len(proxy.paths)
    wait_until(lambda: len(proxy.paths) >= asked + 3, "the store was asked again and again")
    proxy.fault = lambda _: ""
    told = target.wait_for(("m", {2: f"{base}/2"}))
    assert all(versions == {1: f"{base}/1"} for _, versions in told)
    refused = [text for text in caplog.messages if "PERMISSION_DENIED" in text]
    assert len(refused) == 1
    assert f"Could not list {base}" in refused[0]


def test_a_store_that_hangs_delays_no_other(
    sources: Sources, target: Target, bucket: str, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.fault = lambda _: "hang"
    far, near = remote(1), local(tmp_path, 3)
    sources.set_models({"hangs": SourceModel(f"s3://{bucket}/m")})
    wait_until(lambda: proxy.paths, "the store is asked, and hangs")
    sources.set_models(
        {"hangs": SourceModel(f"s3://{bucket}/m"), "far": SourceModel(far), "near": SourceModel(near)}
    )
    target.wait_for(("far", {1: f"{far}/1"}))
    (tmp_path / "4").mkdir()
    target.wait_for(("near", {4: f"{near}/4"}))


@pytest.mark.parametrize(
    ("poll", "remote_poll", "seconds"), [(1, 30, 30), (60, 30, 60), (0, 30, 0), (-1, 30, -1)]
)
def test_remote_base_paths_are_looked_at_less_often(
    poll: int, remote_poll: int, seconds: int, target: Target
) -> None:
    assert Sources(target, poll, Stores(), remote_poll)._remote_poll_seconds == seconds
