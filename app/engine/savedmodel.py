"""A SavedModel directory to a `SessionModel`: parsed, restored and initialised in a TensorFlow session.

TensorFlow's session runtime loads TF1 and TF2 exports alike, as the C++ TensorFlow Serving does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.saved_model import loader_impl

from app.cpus import thread_seconds
from app.engine import savedmodel_file, xla
from app.engine.compute_threads import ComputeThreads
from app.engine.external_ops import check_external_ops
from app.engine.load_priority import breathe
from app.engine.optimise import Optimisation, Optimising, begin
from app.engine.placement import place
from app.engine.rank_guard import has_convolutions
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
    before_restore: Callable[[], None] = lambda: None,
    refuse_external_ops: bool = False,
    compute: ComputeThreads | None = None,
) -> SessionModel:
    """Load the SavedModel in the version directory `path`.

    Args:
        path: holds `saved_model.pb` or `saved_model.pbtxt`.
        tags: the meta graph with exactly these tags is taken.
        config: a `ConfigProto` for the session. TensorFlow takes thread counts from the first
            session of the process only.
        metrics: where the load, and later the runs of the model, are counted; nowhere if None.
        device: where the whole graph goes, such as `/device:GPU:1`; empty leaves it to TensorFlow.
        in_callers_thread: whether runs, and the restore, stay in their caller's thread.
        optimisation: what may be done to make the model fast; nothing if None.
        before_restore: called when the graph is there; what follows hardly holds the GIL.
        refuse_external_ops: whether a model with ops that reach outside it is refused, not only logged.
        compute: where its runs go if they last long; None keeps them in their caller's thread.

    Raises:
        ServingError: NOT_FOUND without a SavedModel or such a meta graph, FAILED_PRECONDITION for
            ops that are refused, PERMISSION_DENIED for files that cannot be read, DATA_LOSS for a file
            that does not parse, and whatever TensorFlow answers while restoring.
    """
    metrics = metrics or TensorFlowMetrics.make(Registry())
    try:
        meta_graph = _read(path, tags, refuse_external_ops=refuse_external_ops)
        # A replica's graph stays as it was placed.
        work = None if device or optimisation is None else begin(meta_graph, config, optimisation)
        # Copies: a part of a meta graph keeps all of it in memory.
        signature_defs = {name: _copy(proto) for name, proto in meta_graph.signature_def.items()}
        convolves = has_convolutions(meta_graph.graph_def)
        del meta_graph
        source = _Source(path, tags, signature_defs, device, before_restore, compute, convolves)
        load_with = partial(source.load, metrics=metrics, in_callers_thread=in_callers_thread)
        model = load_with(config, work=work)
        if work is not None and work.may_use_xla:
            model = xla.faster(model, lambda: load_with(xla.with_xla(config), work=None))
    except BaseException:
        metrics.load_attempts.increment(path, "fail")
        raise
    metrics.load_attempts.increment(path, "success")
    return model


def _copy(proto: Any) -> Any:
    result = type(proto)()
    result.CopyFrom(proto)
    return result


def _read(path: str, tags: Sequence[str], *, refuse_external_ops: bool) -> Any:
    """The meta graph, which may be loaded."""
    logger.info("Reading SavedModel from: %s", path)
    meta_graph = savedmodel_file.meta_graph(savedmodel_file.read(path), tags)
    logger.info("Reading meta graph with tags { %s }", " ".join(tags))
    check_external_ops(meta_graph, path, refuse=refuse_external_ops)
    return meta_graph


@dataclass(frozen=True)
class _Source:
    """What is loaded: the arguments of `load`, and the signatures that were found."""

    path: str
    tags: Sequence[str]
    signature_defs: Mapping[str, Any]
    device: str
    before_restore: Callable[[], None]
    compute: ComputeThreads | None
    convolves: bool

    def load(
        self, config: Any, metrics: TensorFlowMetrics, *, in_callers_thread: bool, work: Optimising | None
    ) -> SessionModel:
        """The model, which `work` makes fast if it can."""
        breathe()
        start = time.perf_counter_ns()
        loader = loader_impl.SavedModelLoader(self.path)
        graph = tf.Graph()
        if in_callers_thread:
            config = config_pb2.ConfigProto.FromString(config.SerializeToString())
            config.inter_op_parallelism_threads = -1  # none: the restore has the priority of who loads
        with _loading(self.path):
            saver = _import(loader, self.tags, graph, self.device)
            # What it computes: what it waits for, for requests, counts as the load's own.
            rewriting = thread_seconds()
            if work is not None and not work.rewrite(graph, saver, config):
                work = None
            rewriting = thread_seconds() - rewriting
            self.before_restore()
            session = tf.compat.v1.Session(graph=graph, config=config)
        metrics.session_created.set(to=True)
        try:
            with _loading(self.path), graph.as_default():
                stages = _restore(loader, self.tags, session, saver, work)
        except BaseException:
            session.close()
            raise
        del loader, saver  # they have the graph once more
        taken = micros(start, time.perf_counter_ns())
        metrics.load_micros.increment(self.path, by=taken)
        for stage, stage_micros in stages.items():
            metrics.load_stage_micros.observe(stage_micros, self.path, stage)
        logger.info(
            "SavedModel load for tags { %s }; Status: success: OK. Took %d microseconds.",
            " ".join(self.tags),
            taken,
        )
        model = SessionModel(
            session,
            self.signature_defs,
            metrics,
            in_callers_thread=in_callers_thread,
            compute=self.compute,
            convolves=self.convolves,
        )
        return model if work is None else work.finish(model, taken / 1e6 - rewriting)


@contextmanager
def _loading(path: str) -> Iterator[None]:
    """TensorFlow's errors as the user is told of them."""
    try:
        with tensorflow_errors():
            yield
    except (OSError, ValueError, RuntimeError) as error:
        raise ServingError(Code.INVALID_ARGUMENT, f"Cannot load SavedModel in {path}: {error}") from error


def _import(loader: Any, tags: Sequence[str], graph: Any, device: str) -> Any:
    """Bring the model's graph into `graph`; its saver."""
    meta_graph = loader.get_meta_graph_def_from_tags(list(tags))
    if device:
        place(meta_graph, device)
    functions = _take_functions(meta_graph.graph_def)
    breathe()
    with graph.as_default():
        saver, _ = loader.load_graph(graph, list(tags))
        for function in functions:
            breathe()
            tf.graph_util.import_graph_def(function, name="")
    return saver


def _restore(
    loader: Any, tags: Sequence[str], session: Any, saver: Any, work: Optimising | None
) -> dict[str, int]:
    """Restore and initialise, as `SavedModelLoader.load` does; microseconds by stage."""
    start = time.perf_counter_ns()
    if work is None or not work.restore(session, loader.variables_path):
        loader.restore_variables(session, saver)
    restored = time.perf_counter_ns()
    loader.run_init_ops(session, list(tags))
    return {
        "restore_graph": micros(start, restored),
        "init_graph": micros(restored, time.perf_counter_ns()),
    }


def _take_functions(graph_def: Any) -> list[Any]:
    """Move the functions of `graph_def` into graphs of their own, to be imported after its nodes.

    An import holds the GIL, and requests wait for it. Where nodes call functions that are there already, it
    infers shapes through all of them: the graph of an image model took 40 ms at once. Its nodes alone take
    3 ms, and a function at most 8 ms. A graph from TensorFlow 1, whose nodes may have a function as their op,
    stays whole.
    """
    names = {function.signature.name for function in graph_def.library.function}
    if any(node.op in names for node in graph_def.node):
        return []
    alone = []
    for function in graph_def.library.function:
        alone.append(graph_pb2.GraphDef(versions=graph_def.versions))
        alone[-1].library.function.append(function)
    graph_def.library.ClearField("function")
    return alone
