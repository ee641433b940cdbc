"""A SavedModel directory to a `SessionModel`: parsed, restored and initialised in a TensorFlow session.

TensorFlow's session runtime loads TF1 and TF2 exports alike, as the C++ TensorFlow Serving does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.python.saved_model import loader_impl

from app.engine import savedmodel_file
from app.engine.optimise import Optimisation, optimise
from app.engine.placement import place
from app.engine.session_model import SessionModel
from app.engine.status import tensorflow_errors
from app.errors import Code, ServingError
from app.telemetry.metrics import Registry
from app.telemetry.serving_metrics import TensorFlowMetrics, micros

logger = logging.getLogger(__name__)


def load(
    path: str,
    tags: Sequence[str],
    config: Any,
    *,
    metrics: TensorFlowMetrics | None = None,
    device: str = "",
    in_callers_thread: bool = True,
    optimisation: Optimisation | None = None,
) -> SessionModel:
    """Load the SavedModel in the version directory `path`.

    Args:
        path: holds `saved_model.pb` or `saved_model.pbtxt`.
        tags: the meta graph with exactly these tags is taken.
        config: a `ConfigProto` for the session. TensorFlow takes thread counts from the first
            session of the process only.
        metrics: where the load, and later the runs of the model, are counted; nowhere if None.
        device: where the whole graph goes, such as `/device:GPU:1`; empty leaves it to TensorFlow.
        in_callers_thread: whether runs stay in their caller's thread.
        optimisation: what may be done to make the model fast; nothing if None.

    Raises:
        ServingError: NOT_FOUND without a SavedModel or such a meta graph, PERMISSION_DENIED for
            files that cannot be read, DATA_LOSS for a file that does not parse, and whatever
            TensorFlow answers while restoring.
    """
    metrics = metrics or TensorFlowMetrics.make(Registry())
    try:
        model, graph_bytes, seconds = _load(
            path, tags, config, metrics, device, in_callers_thread=in_callers_thread
        )
        if optimisation is not None and not device:  # a replica's graph stays as it was placed
            model = optimise(model, config, graph_bytes, optimisation, seconds)
    except BaseException:
        metrics.load_attempts.increment(path, "fail")
        raise
    metrics.load_attempts.increment(path, "success")
    return model


def _load(
    path: str,
    tags: Sequence[str],
    config: Any,
    metrics: TensorFlowMetrics,
    device: str,
    *,
    in_callers_thread: bool,
) -> tuple[SessionModel, int, float]:
    """The model, the bytes of its graph and the seconds it took."""
    start = time.perf_counter_ns()
    logger.info("Reading SavedModel from: %s", path)
    meta_graph = savedmodel_file.meta_graph(savedmodel_file.read(path), tags)
    logger.info("Reading meta graph with tags { %s }", " ".join(tags))
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph, config=config)
    metrics.session_created.set(to=True)
    try:
        with graph.as_default(), tensorflow_errors():
            stages = _restore(path, tags, session, device)
    except (OSError, ValueError, RuntimeError) as error:
        session.close()
        raise ServingError(Code.INVALID_ARGUMENT, f"Cannot load SavedModel in {path}: {error}") from error
    except BaseException:
        session.close()
        raise
    taken = micros(start, time.perf_counter_ns())
    metrics.load_micros.increment(path, by=taken)
    for stage, stage_micros in stages.items():
        metrics.load_stage_micros.observe(stage_micros, path, stage)
    logger.info(
        "SavedModel load for tags { %s }; Status: success: OK. Took %d microseconds.",
        " ".join(tags),
        taken,
    )
    model = SessionModel(session, meta_graph.signature_def, metrics, in_callers_thread=in_callers_thread)
    return model, meta_graph.graph_def.ByteSize(), taken / 1e6


def _restore(path: str, tags: Sequence[str], session: Any, device: str) -> dict[str, int]:
    """Bring the model into `session`, as `SavedModelLoader.load` does; microseconds by stage."""
    loader = loader_impl.SavedModelLoader(path)
    meta_graph = loader.get_meta_graph_def_from_tags(list(tags))
    if device:
        place(meta_graph, device)
    _import_functions(meta_graph.graph_def)
    saver, _ = loader.load_graph(session.graph, list(tags))
    start = time.perf_counter_ns()
    loader.restore_variables(session, saver)
    restored = time.perf_counter_ns()
    loader.run_init_ops(session, list(tags))
    return {
        "restore_graph": micros(start, restored),
        "init_graph": micros(restored, time.perf_counter_ns()),
    }


def _import_functions(graph_def: Any) -> None:
    """Move the functions of `graph_def` into the default graph, one by one.

    An import holds the GIL, and requests wait for it: an image model's functions, which are most of it,
    took 45 ms as a whole and take 13 ms at most alone.
    """
    for function in graph_def.library.function:
        alone = graph_pb2.GraphDef(versions=graph_def.versions)
        alone.library.function.append(function)
        tf.graph_util.import_graph_def(alone, name="")
    graph_def.library.ClearField("function")
