from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.python.lib.io._pywrap_record_io import RecordIterator

from app.recording.record_files import RecordFiles


def names(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def read(file: Path) -> list[bytes]:
    return list(RecordIterator(str(file), ""))


def test_the_open_file_can_be_read_and_gets_its_name_in_the_end(tmp_path: Path) -> None:
    files = RecordFiles(str(tmp_path / "r"), 10**6, 3)
    assert files.write([b"one", b"two"]) == 2 * 16 + 6
    assert names(tmp_path) == ["r-00000001.tfrecord.open"]
    assert read(tmp_path / "r-00000001.tfrecord.open") == [b"one", b"two"]
    files.close()
    files.close()
    assert names(tmp_path) == ["r-00000001.tfrecord"]
    assert read(tmp_path / "r-00000001.tfrecord") == [b"one", b"two"]


def test_files_are_bounded_in_size_and_number(tmp_path: Path) -> None:
    other = tmp_path / "r2-00000009.tfrecord"
    other.touch()
    files = RecordFiles(str(tmp_path / "r"), 100, 3)
    files.write(bytes([number]) * 50 for number in range(20))
    # 132 bytes a file: two records each.
    assert names(tmp_path) == [
        "r-00000008.tfrecord",
        "r-00000009.tfrecord",
        "r-00000010.tfrecord",
        other.name,
    ]
    assert read(tmp_path / "r-00000010.tfrecord") == [bytes([18]) * 50, bytes([19]) * 50]


def test_it_goes_on_after_the_files_of_others(tmp_path: Path) -> None:
    (tmp_path / "r-00000004.tfrecord").touch()
    (tmp_path / "r-00000007.tfrecord.open").touch()  # of a process that crashed
    files = RecordFiles(str(tmp_path / "r"), 100, 2)
    files.write([b"x"])
    assert names(tmp_path) == ["r-00000007.tfrecord.open", "r-00000008.tfrecord.open"]


def test_a_directory_that_is_gone_is_an_error_until_it_is_back(tmp_path: Path) -> None:
    files = RecordFiles(str(tmp_path / "d" / "r"), 10**6, 3)
    with pytest.raises(OSError, match="No such file"):
        files.write([b"x"])
    (tmp_path / "d").mkdir()
    files.write([b"y"])
    files.close()
    assert read(tmp_path / "d" / "r-00000001.tfrecord") == [b"y"]


def test_a_disk_without_room_does_not_drive_out_what_is_recorded(tmp_path: Path) -> None:
    files = RecordFiles(str(tmp_path / "r"), 40, 3)
    for number in range(3):
        files.write([bytes([number]) * 50])  # a file each
    with without_room():
        for _ in range(5):
            with pytest.raises(OSError, match=r"File too large|No space"):
                files.write([b"x" * 30])
    # The first attempt made room for a file of its own, the others had it.
    assert names(tmp_path) == ["r-00000002.tfrecord", "r-00000003.tfrecord"]
    files.write([b"y"])
    assert read(tmp_path / "r-00000004.tfrecord.open") == [b"y"]
    with without_room(), pytest.raises(OSError, match=r"File too large|No space"):
        files.write([b"x"])
    assert read(tmp_path / "r-00000004.tfrecord.open") == [b"y"], "what was there before stays"


@contextlib.contextmanager
def without_room() -> Iterator[None]:
    """No file of this process grows, which to its writers is like a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_tensorflow_reads_what_is_written(tmp_path: Path) -> None:
    files = RecordFiles(str(tmp_path / "r"), 10**6, 3)
    files.write([b"", b"x" * 100_000])
    files.close()
    found = tf.data.TFRecordDataset(str(tmp_path / "r-00000001.tfrecord")).as_numpy_iterator()
    assert list(found) == [b"", b"x" * 100_000]
