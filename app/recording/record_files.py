"""A set of TFRecord files under one prefix: written one after the other, the oldest removed."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

# Its length twice with checksums: what TFRecord adds to a record.
_FRAME_BYTES = 16
_OPEN = ".open"


class RecordFiles:
    """Files `PREFIX-NUMBER.tfrecord`; the one that is being written has `.open` after it. For one thread.

    What has a final name is whole and never changes. Numbers go on where files of earlier processes, the
    open ones of crashed processes too, end; these count and are removed like all others.
    """

    def __init__(self, prefix: str, max_bytes: int, max_files: int) -> None:
        """Prepare; a file is made with the first record.

        Args:
            prefix: absolute path and the beginning of the name.
            max_bytes: the size at which a file is finished.
            max_files: how many are kept, the open one included.
        """
        self._prefix = prefix
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._writer: Any = None
        self._path = ""
        self._size = 0
        self._empty = ""  # the file at hand, as long as nothing is in it for sure

    def write(self, records: Iterable[bytes]) -> int:
        """Append `records`, and see to it that others can read them; the number of bytes written.

        Raises:
            OSError: a file cannot be made, written or removed. The file at hand is given up, and what of
                `records` is in it is not known; the next call begins another. One that was new is removed,
                so that a disk without room does not drive out what is recorded.
        """
        written = 0
        try:
            for record in records:
                writer = self._writer or self._begin()
                writer.write(record)
                self._size += len(record) + _FRAME_BYTES
                written += len(record) + _FRAME_BYTES
                if self._size >= self._max_bytes:
                    self.close()
            if self._writer is not None:
                self._writer.flush()
                self._empty = ""
        except (tf.errors.OpError, OSError) as error:
            self._give_up()
            if isinstance(error, OSError):
                raise
            raise OSError(error.message) from None
        return written

    def close(self) -> None:
        """Finish the open file, if there is one."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            self._empty = ""
            os.rename(self._path + _OPEN, self._path)

    def _give_up(self) -> None:
        self._writer = None  # closing would fail for the same reason
        empty, self._empty = self._empty, ""
        if empty:
            with contextlib.suppress(OSError):
                os.unlink(empty)

    def _begin(self) -> Any:
        found = self._files()
        number = max(found, default=0) + 1
        while True:
            self._path = f"{self._prefix}-{number:08d}.tfrecord"
            try:
                # Another process may have the same prefix: the number is whose file is there first.
                with open(self._path + _OPEN, "xb"):
                    self._empty = self._path + _OPEN
                    break
            except FileExistsError:
                number += 1
        for old in sorted(found)[: max(0, len(found) + 1 - self._max_files)]:
            os.unlink(found[old])
        self._writer = tf.io.TFRecordWriter(self._path + _OPEN)
        self._size = 0
        return self._writer

    def _files(self) -> dict[int, str]:
        """The path of each file of the set, by number."""
        directory, name = os.path.split(self._prefix)
        form = re.compile(re.escape(name) + r"-([0-9]{8,})\.tfrecord(\.open)?")
        matches = filter(None, map(form.fullmatch, os.listdir(directory)))
        return {int(match[1]): os.path.join(directory, match[0]) for match in matches}
