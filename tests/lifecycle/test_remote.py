from __future__ import annotations

import uuid
from collections.abc import Mapping

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.lifecycle.remote import RemoteStorage, missing
from app.lifecycle.storage import BasePathError
from app.lifecycle.store import Stores
from tests.support.process import wait_until

WHOLE = (
    "saved_model.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00002",
    "variables/variables.data-00001-of-00002",
)


@pytest.fixture
def base() -> str:
    """A base path in memory that no other test uses."""
    return f"memory://{uuid.uuid4().hex}/m"


def put(base: str, files: Mapping[str, bytes]) -> None:
    memory = fsspec.filesystem("memory")
    for name, content in files.items():
        memory.pipe_file(f"{base}/{name}", content)


def storage(quiet_seconds: float = 0.0) -> RemoteStorage:
    return RemoteStorage(Stores(), quiet_seconds)


def test_versions_are_numbered_directories(base: str) -> None:
    put(base, {"1/a": b"", "007/a": b"", "tmp/a": b"", "3": b"a file"})
    listing = storage().list_versions("m", base)
    assert listing.versions == {1: f"{base}/1", 7: f"{base}/007"}


def test_a_missing_base_path_says_where_it_looked(base: str) -> None:
    with pytest.raises(BasePathError) as raised:
        storage().list_versions("m", base)
    assert str(raised.value) == (
        f"Could not find base path {base} for servable m with error NOT_FOUND: {base} not found in the "
        "store. It is looked for again at every poll. What is loaded stays."
    )


def test_a_base_path_without_versions_is_an_error_and_no_order_to_unload(base: str) -> None:
    put(base, {"saved_model.pb": b"", "variables/a": b""})
    with pytest.raises(BasePathError, match="No versions of servable m found under base path memory://"):
        storage().list_versions("m", base)


def test_a_whole_version_that_is_old_is_finished(base: str) -> None:
    put(base, {f"1/{name}": b"x" for name in WHOLE})
    assert storage().unfinished(f"{base}/1") is None


def test_a_whole_version_that_is_new_has_to_stay_the_same(base: str) -> None:
    looking = storage(2)
    put(base, {f"1/{name}": b"x" for name in WHOLE})
    assert looking.unfinished(f"{base}/1") == ""
    put(base, {"1/assets/words": b"x"})
    assert looking.unfinished(f"{base}/1") == ""
    wait_until(lambda: looking.unfinished(f"{base}/1") is None, "the version has settled")
    put(base, {"1/assets/words": b"xx"})
    assert looking.unfinished(f"{base}/1") is None, "once finished, a version stays so"
    looking.forget_all_but(set())
    assert looking.unfinished(f"{base}/1") == ""


def test_a_version_without_its_model_is_unfinished_however_old(base: str) -> None:
    put(base, {"1/assets/words": b"x"})
    assert storage().unfinished(f"{base}/1") == "It has no saved_model.pb yet."


def test_a_version_that_cannot_be_listed_is_an_error(base: str) -> None:
    with pytest.raises(BasePathError, match=f"Could not list version {base}/1 with error NOT_FOUND"):
        storage().unfinished(f"{base}/1")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ((), "It has no saved_model.pb yet."),
        (("saved_model.pb",), ""),
        (("saved_model.pbtxt", "assets/a"), ""),
        (("model.tflite",), ""),
        (("saved_model.pb", "variables/variables.index"), "It has no variables.data yet."),
        (WHOLE[:1] + WHOLE[2:], "It has no variables/variables.index yet."),
        (WHOLE[:3], "It has 1 of 2 variables.data yet."),
        (WHOLE, ""),
    ],
)
def test_what_names_promise(names: tuple[str, ...], text: str) -> None:
    assert missing(names) == text


@given(st.sets(st.sampled_from(WHOLE)))
def test_with_variables_only_the_whole_is_whole(names: set[str]) -> None:
    has_variables = any(name.startswith("variables/") for name in names)
    assert bool(missing(names)) == (names != set(WHOLE) if has_variables else "saved_model.pb" not in names)
