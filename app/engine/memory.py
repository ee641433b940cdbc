"""Memory of the process that nothing needs any more."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return freed memory to the system, where the C library can; it takes some milliseconds.

    Each time that TensorFlow optimises a graph, some 25 MB of small pieces are left, which the C library
    keeps. Nothing happens where the C library is not glibc.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
