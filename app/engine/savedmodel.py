"""A SavedModel directory to a `SessionModel`: parsed, restored and initialised in a TensorFlow session.

TensorFlow's session runtime loads TF1 and TF2 exports alike, as the C++ TensorFlow Serving does.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model import loader_impl

from app.engine.external_ops import check_external_ops
from app.engine.optimise import Optimisation, optimise
from app.engine.placement import place
from app.engine.session_model import SessionModel
from app.engine.status import tensorflow_errors
from app.errors import Code, ServingError, cannot_read, not_found
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
    refuse_external_ops: bool = False,
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
        refuse_external_ops: whether a model with ops that reach outside it is refused, not only logged.

    Raises:
        ServingError: NOT_FOUND without a SavedModel or such a meta graph, FAILED_PRECONDITION for
            ops that are refused, PERMISSION_DENIED for
            files that cannot be read, DATA_LOSS for a file that does not parse, and whatever
            TensorFlow answers while restoring.
    """
    metrics = metrics or TensorFlowMetrics.make(Registry())
    try:
        model, graph_bytes, seconds = _load(
            path,
            tags,
            config,
            metrics,
            device,
            in_callers_thread=in_callers_thread,
            refuse_external_ops=refuse_external_ops,
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
    refuse_external_ops: bool,
) -> tuple[SessionModel, int, float]:
    """The model, the bytes of its graph and the seconds it took."""
    start = time.perf_counter_ns()
    logger.info("Reading SavedModel from: %s", path)
    meta_graph = _meta_graph(_parse(path), tags)
    logger.info("Reading meta graph with tags { %s }", " ".join(tags))
    check_external_ops(meta_graph, path, refuse=refuse_external_ops)
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


def _parse(path: str) -> Any:
    """The SavedModel proto of `path`, read here so that every failure names its file and cause."""
    for name, read in (("saved_model.pb", _binary), ("saved_model.pbtxt", _text)):
        file = os.path.join(path, name)
        try:
            with open(file, "rb") as stream:
                content = stream.read()
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            raise ServingError(Code.FAILED_PRECONDITION, f"{path}; Not a directory") from None
        except OSError as error:
            raise cannot_read(file, error.strerror) from None
        try:
            saved_model = read(content)
            if not saved_model.meta_graphs:  # also what many kinds of damage, and an empty file, parse as
                raise DecodeError("it holds no meta graph")
        except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
            raise ServingError(
                Code.DATA_LOSS,
                f"Can't parse {file} ({len(content)} bytes): {error}. The file is damaged or incomplete; "
                f"export or copy the model again.",
            ) from None
        return saved_model
    if os.path.exists(path) and not os.access(path, os.R_OK | os.X_OK):
        raise cannot_read(path, "Permission denied")
    raise not_found(
        "Specified file path does not appear to contain a SavedModel bundle "
        f"(should have a file called `saved_model.pb`)\nSpecified file path: {path}"
    )


def _binary(content: bytes) -> Any:
    return saved_model_pb2.SavedModel.FromString(content)


def _text(content: bytes) -> Any:
    return text_format.Parse(content, saved_model_pb2.SavedModel())


def _meta_graph(saved_model: Any, tags: Sequence[str]) -> Any:
    for meta_graph in saved_model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return meta_graph
    wanted = " ".join(sorted(tags))
    raise not_found(
        f"Could not find meta graph def matching supplied tags: {{ {wanted} }}. To inspect available "
        "tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`"
    )
