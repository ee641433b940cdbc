"""Fetches from fsspec's store in memory; those over a network are in test_model_cache.py."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from app.errors import Code, ServingError
from app.lifecycle.fetch import described, fetch, has_all
from app.lifecycle.remote_object import RemoteObject
from app.lifecycle.store import RemoteStore

FILES = {"saved_model.pb": b"graph", "assets/words": b"a\nb\n"}


class Memory(RemoteStore):
    """A store in memory; `meanwhile` happens after each download, to the directory it went to."""

    def __init__(self, files: Mapping[str, bytes] = FILES) -> None:
        self.uri = f"memory://{uuid.uuid4().hex}/m/1"
        super().__init__(self.uri.removesuffix("/m/1"))
        self.meanwhile: Callable[[Path], object] = lambda _: None
        self.downloads = 0
        self.put(files)

    def put(self, files: Mapping[str, bytes]) -> None:
        for name, content in files.items():
            fsspec.filesystem("memory").pipe_file(f"{self.uri}/{name}", content)

    def download(self, objects: Sequence[RemoteObject], directory: str) -> None:
        super().download(objects, directory)
        self.downloads += 1
        self.meanwhile(Path(directory))


@pytest.fixture
def store() -> Memory:
    return Memory()


class Places:
    """Where a fetch writes to, and what it asked for."""

    def __init__(self, directory: Path) -> None:
        self.partial, self.final = directory / "partial", directory / "final"
        self.partial.mkdir()
        self.room: list[int] = []

    def fetch(self, store: Memory, objects: Sequence[RemoteObject] | None = None) -> None:
        objects = described(store, store.uri) if objects is None else objects
        fetch(
            store,
            store.uri,
            objects,
            partial=self.partial,
            final=self.final,
            make_room=self.room.append,
        )

    def refused(self, store: Memory, objects: Sequence[RemoteObject] | None = None) -> ServingError:
        with pytest.raises(ServingError) as raised:
            self.fetch(store, objects)
        assert not self.final.exists()
        return raised.value


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def test_a_version_is_put_into_place_whole(store: Memory, places: Places) -> None:
    places.fetch(store)
    assert not places.partial.exists()
    assert {name: (places.final / name).read_bytes() for name in FILES} == FILES
    (room,) = places.room
    assert room > sum(map(len, FILES.values()))
    objects = described(store, store.uri)
    assert has_all(places.final, objects)
    (places.final / "assets/words").write_bytes(b"a\n")
    assert not has_all(places.final, objects)
    (places.final / "assets/words").unlink()
    assert not has_all(places.final, objects)


def test_a_version_that_is_not_whole_is_not_described() -> None:
    store = Memory({"variables/variables.index": b"x"})
    with pytest.raises(ServingError, match=r"no saved_model.pb yet\. Upload what is missing") as raised:
        described(store, store.uri)
    assert raised.value.code is Code.FAILED_PRECONDITION


def test_a_version_that_changes_meanwhile_is_refused(store: Memory, places: Places) -> None:
    store.meanwhile = lambda _: store.put({"assets/more": b"x"})
    assert places.refused(store).code is Code.ABORTED


def test_a_file_that_came_short_is_refused(store: Memory, places: Places) -> None:
    store.meanwhile = lambda directory: (directory / "saved_model.pb").write_bytes(b"grap")
    error = places.refused(store)
    assert error.code is Code.DATA_LOSS
    assert error.message == f"{store.uri}/saved_model.pb came with 4 bytes; the store says it has 5."


def tagged(store: Memory, content: bytes, *, is_sure: bool) -> list[RemoteObject]:
    """The objects as a store with digests describes them: all with that of `content`."""
    md5 = hashlib.md5(content).digest()
    return [replace(item, md5=md5, md5_is_sure=is_sure) for item in described(store, store.uri)]


def test_a_file_with_another_digest_is_refused(store: Memory, places: Places) -> None:
    error = places.refused(store, tagged(store, b"other", is_sure=True))
    assert error.code is Code.DATA_LOSS
    assert "was damaged on its way: its MD5 is " in error.message
    assert store.downloads == 1


@pytest.mark.parametrize("same", [True, False])
def test_what_may_be_no_digest_is_made_up_for_by_reading_twice(
    places: Places, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    store = Memory({"saved_model.pb": b"graph"})
    objects = tagged(store, b"other", is_sure=False)
    monkeypatch.setattr("app.lifecycle.fetch.described", lambda *_: tuple(objects))
    contents = iter([b"graph", b"graph" if same else b"GRAPH"])
    store.meanwhile = lambda directory: (directory / "saved_model.pb").write_bytes(next(contents))
    if same:
        places.fetch(store, objects)
        assert (places.final / "saved_model.pb").read_bytes() == b"graph"
    else:
        assert places.refused(store, objects).code is Code.DATA_LOSS
    assert store.downloads == 2
    assert [path.name for path in places.partial.parent.iterdir()] == ["final" if same else "partial"]


def test_a_disk_that_fails_names_the_flag(store: Memory, places: Places) -> None:
    places.final.write_bytes(b"in the way")
    with pytest.raises(ServingError) as raised:
        places.fetch(store)
    assert raised.value.code is Code.UNAVAILABLE
    assert raised.value.message.endswith("See --model_cache_dir.")


def test_without_room_nothing_is_read(store: Memory, places: Places) -> None:
    def refuse(_: int) -> None:
        raise ServingError(Code.RESOURCE_EXHAUSTED, "full")

    objects = described(store, store.uri)
    with pytest.raises(ServingError, match="full"):
        fetch(store, store.uri, objects, partial=places.partial, final=places.final, make_room=refuse)
    assert store.downloads == 0
