"""A SavedModel that is run in a TensorFlow session, by the cheapest way there is."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from tensorflow.core.protobuf import config_pb2

from app.engine.dtypes import Array
from app.engine.model import PLANS_KEPT, Model
from app.engine.status import tensorflow_errors


class SessionModel(Model):
    """Runs in the calling thread, without holding the GIL."""

    def __init__(self, session: Any, signature_defs: Mapping[str, Any]) -> None:
        """Take over `session`, in which the model is restored and initialised."""
        super().__init__(signature_defs)
        self._session = session
        # The callables keep the session alive.
        self._callable = lru_cache(maxsize=PLANS_KEPT)(partial(_make_callable, session, threading.Lock()))

    def _call(self, feeds: tuple[str, ...], values: Sequence[Array], fetches: tuple[str, ...]) -> list[Array]:
        call = self._callable(feeds, fetches)
        with tensorflow_errors():
            results = call(*values)
        return [_array(value) for value in results]

    def close(self) -> None:
        """Close the session and let go of it."""
        self._callable.cache_clear()
        self._session.close()


def _make_callable(
    session: Any, lock: threading.Lock, feeds: tuple[str, ...], fetches: tuple[str, ...]
) -> Any:
    options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
    # -1 runs the graph in the caller's thread: no hand-over, a few microseconds for a small graph.
    options.run_options.inter_op_thread_pool = -1
    with lock, tensorflow_errors():  # making one extends the graph, which is not thread-safe
        return session._make_callable_from_options(options)


def _array(value: Any) -> Array:
    """What TensorFlow returned as an array: of a tensor without dimensions it returns the bare element."""
    if isinstance(value, np.ndarray):
        return value
    return np.array(value, object if isinstance(value, bytes) else None)
