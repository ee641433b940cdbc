from __future__ import annotations

import ctypes
import os

import pytest

from app.engine.memory import give_back
from tests.support.process import resident_bytes

PIECES, BYTES = 40_000, 2_000


def test_freed_pieces_go_back_to_the_system() -> None:
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]
    pieces = [library.malloc(BYTES) for _ in range(PIECES)]
    for piece in pieces:
        ctypes.memset(piece, 1, BYTES)
    last = pieces.pop()  # what lies above keeps the C library from giving back by itself
    for piece in pieces:
        library.free(piece)
    before = resident_bytes(os.getpid())
    give_back()
    assert before - resident_bytes(os.getpid()) > PIECES * BYTES / 2
    library.free(last)


def test_a_c_library_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    give_back()
