from __future__ import annotations

import os
import signal

from hypothesis import given
from hypothesis import strategies as st

from app.workers.region import Region


@given(st.lists(st.binary(max_size=64)))
def test_the_last_content_that_fits_is_read(contents: list[bytes]) -> None:
    region = Region(32)
    assert region.read() == b""
    expected = b""
    for content in contents:
        assert region.write(content) == (len(content) <= 32)
        expected = content if len(content) <= 32 else expected
        assert region.read() == expected


def test_another_process_reads_whole_contents_only() -> None:
    region, size = Region(1 << 16), 1 << 16
    child = os.fork()
    if child == 0:
        number = 0
        while True:
            number = (number + 1) % 256
            region.write(bytes([number]) * (size - number))
    try:
        seen = set[bytes]()
        while len(seen) < 50:
            content = region.read()
            assert len(set(content)) <= 1
            assert not content or len(content) == size - content[0]
            seen.add(content[:1])
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    # Wherever it died: what it wrote before is there, and its successor can go on.
    assert len(set(region.read())) == 1
    assert region.write(b"next")
    assert region.read() == b"next"


def test_a_writer_that_died_half_way_leaves_what_was_there() -> None:
    region = Region(32)
    region.write(b"first")
    region.write(b"second")
    for copy in (0, 1):
        begin = copy * (16 + 32)
        if region._memory[begin + 16 : begin + 16 + 5] == b"first":
            region._memory[begin : begin + 20] = b"half" * 5
    assert region.read() == b"second"
    assert region.write(b"third")
    assert region.read() == b"third"
