"""What others than the log write to stderr (TensorFlow's native code, above all) as events of the log.

For `--log_format=json`. Standard error becomes a pipe that the parent process reads: so the last words of a
worker that crashes get through.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import threading
from collections.abc import Iterator

# Native code writes `E0000 00:00:1767225599.000042 17 file.cc:12] text` or `2026-…: E file.cc:12] text`.
_LEVEL = re.compile(rb"(?:[\d-]+ [\d:.]+: )?([IWEF])(?:\d{4} [\d:.]+ +\d+)? \S+:\d+\] ")
_LEVELS = {b"I": logging.INFO, b"W": logging.WARNING, b"E": logging.ERROR, b"F": logging.CRITICAL}
# After the worker's end there is little left to read.
_END_SECONDS = 1.0

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def as_events() -> Iterator[io.TextIOWrapper]:
    """Within the block, turn what is written to stderr into events; the stream given is stderr as it was.

    The log has to write to that stream.
    """
    before = os.dup(2)
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)
    reader = threading.Thread(target=_tell, args=(read,), name="ferry-stderr", daemon=True)
    reader.start()
    # Unbuffered: a buffer's lock that is held while the worker is forked would stay so in the worker.
    stream = io.TextIOWrapper(io.FileIO(before, "w"), errors="backslashreplace", write_through=True)
    try:
        yield stream
    finally:
        os.dup2(before, 2)  # with the workers gone, nobody has the pipe's end any more
        reader.join(_END_SECONDS)


def _tell(read: int) -> None:
    with open(read, "rb") as lines:
        for line in lines:
            if text := line.strip():
                match = _LEVEL.match(text)
                level = _LEVELS[match[1]] if match else logging.WARNING
                logger.log(level, "%s", text.decode(errors="backslashreplace"))
