"""A SavedModel that is run in a TensorFlow session, by the cheapest way there is."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from app.engine.compute_threads import HEAVY_SECONDS, ComputeThreads
from app.engine.dtypes import Array
from app.engine.model import PLANS_KEPT, Model, sorted_feeds
from app.engine.rank_guard import RankGuard
from app.engine.signature import Signature
from app.engine.status import serving_error, tensorflow_errors
from app.telemetry.metrics import Registry
from app.telemetry.serving_metrics import TensorFlowMetrics, micros

# No hand-over: a small graph takes a few microseconds. A graph on several devices runs in the first pool all
# the same, that is TensorFlow's rule.
_CALLERS_THREAD = -1
_FIRST_POOL = 0
_WEIGHT = 0.1  # of the last run in the mean


class SessionModel(Model):
    """Runs in the calling thread, unless told otherwise, and without holding the GIL.

    Attributes:
        mean_seconds: of recent runs.
    """

    needs_alignment = False  # TensorFlow copies what does not stand as it wants it

    def __init__(
        self,
        session: Any,
        signature_defs: Mapping[str, Any],
        metrics: TensorFlowMetrics | None = None,
        *,
        in_callers_thread: bool = True,
        whole_signatures: bool = False,
        compute: ComputeThreads | None = None,
        convolves: bool = False,
    ) -> None:
        """Take over `session`, in which the model is restored and initialised.

        Args:
            session: runs the model.
            signature_defs: the protos as they stand in the model's file.
            metrics: where runs are counted; nowhere if None.
            in_callers_thread: whether runs stay in their caller's thread.
            whole_signatures: compute all outputs of a signature even if some are asked for.
            compute: where runs that last long go; None keeps them in their caller's thread.
            convolves: whether there are convolutions in the graph, which have to be guarded.
        """
        super().__init__(signature_defs)
        self._session = session
        self._metrics = metrics or TensorFlowMetrics.make(Registry())
        self._observe_run = self._metrics.run_micros.series()
        self._in_callers_thread = in_callers_thread
        self._compute = compute
        self._guard = RankGuard(session.graph, self.signatures.values()) if convolves else None
        self.mean_seconds = 0.0  # an update that another thread's overwrites does not matter
        pool = _CALLERS_THREAD if in_callers_thread else _FIRST_POOL
        make = partial(_make_callable, session, threading.Lock(), self._metrics, pool=pool)
        # The callables keep the session alive.
        self._callable = lru_cache(maxsize=PLANS_KEPT)(make)
        # Each callable of an optimised graph keeps filters of its own, in oneDNN's layout. So a client that
        # asks for some of a signature's outputs is answered from the callable for all of them.
        whole = lru_cache(maxsize=PLANS_KEPT)(partial(_whole, list(self.signatures.values())))
        self._whole = whole if whole_signatures else None

    @property
    def session(self) -> Any:
        """The session that runs it."""
        return self._session

    def in_session(self, session: Any) -> SessionModel:
        """The same signatures in another session, whose graph was optimised."""
        return SessionModel(
            session,
            self.signature_defs,
            self._metrics,
            in_callers_thread=self._in_callers_thread,
            whole_signatures=True,
            compute=self._compute,
            convolves=self._guard is not None,
        )

    def call(
        self,
        feeds: tuple[str, ...],
        values: Sequence[Array],
        fetches: tuple[str, ...],
        deadline: float | None,  # noqa: ARG002 - a run that was begun goes on to its end
    ) -> list[Array]:
        """Run the graph in the calling thread."""
        if self._guard is not None:
            self._guard.check(feeds, values)
        wanted, whole = fetches, self._whole
        if whole is not None:
            fetches = whole(feeds, wanted)
        run = self._callable(feeds, fetches)
        compute = self._compute
        start = time.perf_counter_ns()
        try:
            if self.mean_seconds > HEAVY_SECONDS and compute is not None and compute.take(self.mean_seconds):
                results: list[Array] = compute.run(run, *values)
            else:
                results = run(*values)
        except tf.errors.OpError as error:
            raise serving_error(error) from error
        taken = time.perf_counter_ns() - start
        self.mean_seconds += (taken * 1e-9 - self.mean_seconds) * _WEIGHT
        self._observe_run(taken // 1000)
        if fetches is not wanted and fetches != wanted:
            by_name = dict(zip(fetches, results, strict=True))
            results = [by_name[name] for name in wanted]
        for value in results:
            if not isinstance(value, np.ndarray):
                return [each if isinstance(each, np.ndarray) else _array(each) for each in results]
        return results

    def close(self) -> None:
        """Close the session and let go of it."""
        self._callable.cache_clear()
        self._session.close()


def _make_callable(
    session: Any,
    lock: threading.Lock,
    metrics: TensorFlowMetrics,
    feeds: tuple[str, ...],
    fetches: tuple[str, ...],
    *,
    pool: int,
) -> Any:
    options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
    options.run_options.inter_op_thread_pool = pool
    with lock, tensorflow_errors():  # making one extends the graph, which is not thread-safe
        start = time.perf_counter_ns()
        made = session._make_callable_from_options(options)
    metrics.graph_builds.increment()
    metrics.graph_build_micros.increment(by=micros(start, time.perf_counter_ns()))
    return made


def _whole(
    signatures: Sequence[Signature], feeds: tuple[str, ...], fetches: tuple[str, ...]
) -> tuple[str, ...]:
    """All outputs of the first signature that has these inputs and outputs; `fetches` if there is none."""
    for signature in signatures:
        outputs = tuple(dict.fromkeys(spec.tensor for spec in signature.outputs.values()))
        inputs = tuple(spec.tensor for spec in sorted_feeds(signature.inputs.values()))
        if signature.is_callable and inputs == feeds and set(fetches) <= set(outputs):
            return outputs
    return fetches


def _array(value: Any) -> Array:
    """An array of the bare element that TensorFlow returns for a tensor without dimensions."""
    return np.array(value, object if isinstance(value, bytes) else None)
