from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.lifecycle.storage import BasePathError, Settling, list_versions, read_entries
from tests.support.process import wait_until


def test_entries_are_equal_until_one_comes_goes_or_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    before = read_entries("m", str(tmp_path))
    (tmp_path / "1" / "saved_model.pb").touch()
    assert read_entries("m", str(tmp_path)) == before
    (tmp_path / "1").rename(tmp_path / "old")
    (tmp_path / "2").rename(tmp_path / "1")
    (tmp_path / "old").rename(tmp_path / "2")
    assert read_entries("m", str(tmp_path)) != before


def test_names_that_read_as_int64_are_versions(tmp_path: Path) -> None:
    for name in ("1", "00000123", "+7", " 8", "tmp", "1a", ".1", "1.0", "9223372036854775808", "1_0", "٣"):
        (tmp_path / name).mkdir()
    assert list_versions(str(tmp_path), os.listdir(tmp_path)).versions == {
        1: f"{tmp_path}/1",
        123: f"{tmp_path}/00000123",
        7: f"{tmp_path}/+7",
        8: f"{tmp_path}/ 8",
    }


def test_of_two_names_with_one_number_the_later_in_byte_order_wins() -> None:
    listing = list_versions("/m", ["1", "01"])
    assert listing.versions == {1: "/m/1"}
    assert listing.duplicates == (
        "Duplicate version directories detected. Version 1 will be loaded from 1, 01 will be ignored.",
    )


def test_a_missing_base_path_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(
        BasePathError, match=f"Could not find base path {tmp_path}/no for servable m with error"
    ):
        read_entries("m", f"{tmp_path}/no")


def test_a_file_as_base_path_is_told_from_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BasePathError, match="is a file, not a directory"):
        read_entries("m", str(tmp_path / "file"))


def test_an_unreadable_base_path_says_for_whom(tmp_path: Path) -> None:
    # A loop of links stands for what cannot be read: root, who may run tests, can read all else.
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(BasePathError, match=f"Make it readable for user {os.getuid()}"):
        read_entries("m", str(tmp_path / "loop"))


def test_a_directory_whose_files_are_old_is_complete_at_the_first_look(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    settling = Settling(quiet_seconds=0.0)
    assert settling.is_complete(str(tmp_path))


def test_a_fresh_directory_is_complete_once_it_has_stopped_changing(tmp_path: Path) -> None:
    settling = Settling(quiet_seconds=2)
    file = tmp_path / "saved_model.pb"
    file.write_bytes(b"x")
    assert not settling.is_complete(str(tmp_path))
    file.write_bytes(b"xx")
    assert not settling.is_complete(str(tmp_path))
    wait_until(lambda: settling.is_complete(str(tmp_path)), "the directory has settled")
    file.write_bytes(b"xxx")
    assert settling.is_complete(str(tmp_path)), "once complete, a directory stays so"


def test_what_was_renamed_into_place_is_complete_at_once(tmp_path: Path) -> None:
    settling = Settling(quiet_seconds=3600)
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    assert not settling.is_complete(str(tmp_path))
    settling.trust(str(tmp_path))
    assert settling.is_complete(str(tmp_path))


def test_trust_that_no_look_wanted_is_forgotten(tmp_path: Path) -> None:
    settling = Settling(quiet_seconds=3600)
    settling.trust(str(tmp_path))
    settling.forget_all_but({str(tmp_path)})
    assert not settling.is_complete(str(tmp_path))


def test_another_directory_under_the_same_name_is_looked_at_anew(tmp_path: Path) -> None:
    settling = Settling(quiet_seconds=2)
    path = tmp_path / "1"
    path.mkdir()
    wait_until(lambda: settling.is_complete(str(path)), "the first directory has settled")
    path.rename(tmp_path / "old")
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"x")
    assert not settling.is_complete(str(path))


def test_what_cannot_be_looked_at_is_left_to_the_load(tmp_path: Path) -> None:
    assert Settling().is_complete(str(tmp_path / "gone"))


def test_directories_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    settling = Settling(quiet_seconds=0.0)
    assert settling.is_complete(str(tmp_path))
    settling.forget_all_but(set())
    assert settling._complete == {}
