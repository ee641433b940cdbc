"""TensorFlow's messages without TensorFlow, whose import takes seconds that a quick look need not take."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType


def quiet_tensorflow() -> None:
    """Keep TensorFlow from talking of itself when it is imported; for a tool that runs a model once.

    Only switching oneDNN off ends what is said about it, and one run need not be fast.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


@contextmanager
def without_tensorflow() -> Iterator[None]:
    """Let imports in the block find `tensorflow.core`, the messages, without running TensorFlow's own start.

    Nothing else of TensorFlow can be imported in the block. Afterwards all of it can be, as ever, and
    finds the messages already there. Where TensorFlow is imported already, the block changes nothing.
    """
    found = None if "tensorflow" in sys.modules else find_spec("tensorflow")
    if found is None:
        yield
        return
    package = ModuleType("tensorflow")
    package.__path__ = list(found.submodule_search_locations or ())
    sys.modules["tensorflow"] = package
    try:
        yield
    finally:
        del sys.modules["tensorflow"]
