"""Makes a model fast at load, before it is served: rewritten, compared with the original, measured.

The graph is rewritten before the weights are there. The rewritten one gets a session of its own, so that
the original stays as it is until the other has proved itself. Both share the memory of the weights that are
the same in both.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from app.engine import graph_rewrite
from app.engine.budget import Budget, KeepOriginalError
from app.engine.dtypes import Array
from app.engine.fast_session import (
    open_session,
    reads_after,
    restore_and_read,
    unoptimised,
    with_variables,
)
from app.engine.flat_graph import FlatGraph
from app.engine.fold import fold_normalisation
from app.engine.graph_guards import bytes_of, obstacle, ops_of
from app.engine.memory import give_back
from app.engine.model import read_signature
from app.engine.rewritten import Learned, Rewritten, key_of
from app.engine.session_model import SessionModel
from app.engine.signature import Signature
from app.engine.static_values import StaticValues, aligned, stand_in
from app.engine.trial import Trial, keeps_rows, worthwhile

# Below this there is nothing to gain that would be worth a load's time.
LEAST_WEIGHT_BYTES = 256 * 1024
# Constants in the graph, unlike variables, are copied by every step.
MOST_GRAPH_BYTES = 8 * 1024 * 1024
# No signature may lose more, and one must gain as much. Measured at load, next to everything else.
_LEAST_GAIN, _WORTHWHILE_GAIN = 0.97, 1.05
# What a step takes at most, in first runs of the original: TensorFlow optimises the same graph there.
_SESSION_COST = 0.25
# Of the time that there is, this is used: the last steps may take longer than they should.
_MARGIN = 0.9

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Optimisation:
    """What may be done to models.

    Attributes:
        bfloat16: compute convolutions and matrix products in bfloat16, at whatever cost in precision.
        xla: compile what XLA makes faster; the load may take longer then.
        load_factor: what a load may take, as a multiple of what it and the first runs take without this.
        learned: by loads with this; later ones know it.
    """

    bfloat16: bool = False
    xla: bool = False
    load_factor: float = 2.0
    learned: Learned = field(default_factory=Learned, compare=False)


def begin(meta_graph: Any, config: Any, optimisation: Optimisation) -> Optimising | None:
    """The work on one model, if there is any hope; the log says why not."""
    signatures = [read_signature(name, proto) for name, proto in meta_graph.signature_def.items()]
    work = Optimising([signature for signature in signatures if signature.is_callable], config, optimisation)
    return work if work.attempt(lambda: work.check_guards(meta_graph.graph_def)) else None


class Optimising:
    """The steps on one model, and what they share: `rewrite`, `restore`, then `finish`.

    Attributes:
        may_use_xla: whether XLA is to be tried: it was asked for, and nothing else has made the model faster.
    """

    def __init__(self, signatures: Sequence[Signature], config: Any, optimisation: Optimisation) -> None:
        """Nothing is done yet.

        Args:
            signatures: those that can be called.
            config: the `ConfigProto` of the model's session.
            optimisation: what may be done.
        """
        self._started = time.monotonic()
        self._signatures = signatures
        self._config = config
        self.may_use_xla = optimisation.xla
        self._bfloat16 = optimisation.bfloat16
        self._load_factor = optimisation.load_factor
        self._learned = optimisation.learned
        self._key = ""
        self._rewritten: Rewritten | None = None
        self._saver_def: Any = None
        self._reads: Mapping[str, Any] = {}
        self._weights: dict[str, Array] = {}
        self._tensors = list(
            dict.fromkeys(
                spec.tensor
                for signature in signatures
                for spec in (*signature.inputs.values(), *signature.outputs.values())
            )
        )

    def attempt(self, step: Callable[[], None]) -> bool:
        """Whether `step` went well; the log says why not. Whatever happens, the original can be served."""
        try:
            step()
        except Exception as reason:
            self._keep(reason)
            return False
        return True

    def _keep(self, reason: Exception) -> None:
        if not isinstance(reason, KeepOriginalError):
            logger.error("Making a model fast failed", exc_info=reason)
        logger.info("Model kept as it is: %s (%.3f s).", reason, time.monotonic() - self._started)

    def check_guards(self, graph_def: Any) -> None:
        """Find reasons not to begin, the cheap ones first."""
        if not self._tensors or "" in self._tensors:
            raise KeepOriginalError("no signature of plain tensors")
        graph_bytes = graph_def.ByteSize()
        if graph_bytes > MOST_GRAPH_BYTES:
            raise KeepOriginalError(
                f"its graph holds {graph_bytes // 10**6} MB of constants, which would be copied"
            )
        devices = [device.device_type for device in tf.config.list_physical_devices()]
        if devices != ["CPU"] or self._config.device_count.get("CPU", 1) > 1:
            raise KeepOriginalError(f"its session has other devices than one CPU: {', '.join(devices)}")
        key = key_of(graph_def, self._tensors)
        if not self._learned.is_allowed(key):
            copy = graph_pb2.GraphDef()
            copy.CopyFrom(graph_def)
            self._check_ops(self._pruned(copy))
            self._learned.allow(key)

    def _pruned(self, graph_def: Any) -> Any:
        needed = FlatGraph(graph_def, self._tensors)
        needed.prune()
        return needed.graph_def

    @staticmethod
    def _check_ops(graph_def: Any) -> None:
        if reason := obstacle(graph_def):
            raise KeepOriginalError(reason)
        if sum(map(bytes_of, graph_def.node)) < LEAST_WEIGHT_BYTES:
            raise KeepOriginalError("too small to gain")
        if not graph_rewrite.GAINING & ops_of(graph_def).keys():
            raise KeepOriginalError("nothing in it to make faster")

    def rewrite(self, graph: Any, saver: Any, config: Any) -> bool:
        """Rewrite the model's graph, before its weights are there; whether it makes sense to go on.

        Args:
            graph: the `tf.Graph`. Reads of its variables are added to it, nothing else.
            saver: its `tf.compat.v1.train.Saver`; None if there is none.
            config: the `ConfigProto` of the sessions to come.
        """
        self._config = config
        return self.attempt(lambda: self._rewrite(graph, saver))

    def _rewrite(self, graph: Any, saver: Any) -> None:
        if saver is None:
            raise KeepOriginalError("it has no checkpoint")
        graph_def = self._pruned(graph.as_graph_def())
        originals = {node.name: _stand_in(node) for node in graph_def.node if node.op == "VarHandleOp"}
        self._key = key_of(graph_def, self._tensors)
        self._rewritten = self._learned.find(self._key) or self._rewrite_graph(graph_def, originals)
        self._saver_def = saver.saver_def
        self._reads = reads_after(graph, self._saver_def.restore_op_name, originals)

    def _rewrite_graph(self, graph_def: Any, originals: Mapping[str, Array]) -> Rewritten:
        """What takes the place of `graph_def`; `originals` has what is like its variables."""
        flat = FlatGraph(graph_rewrite.flatten(graph_def, self._tensors), self._tensors)
        flat.prune()
        representative = self._representative(flat)
        known = StaticValues(flat.node, originals, shapes_only=True)
        folded = fold_normalisation(flat, lambda key: known(key).shape)
        flat.share()
        graph_def = graph_rewrite.optimise(flat.graph_def, self._tensors, bfloat16=self._bfloat16)
        flat = FlatGraph(graph_def, self._tensors)
        fixed = graph_rewrite.fix_filters(flat)
        flat.prune()
        if not folded and not fixed and not self._bfloat16:
            raise KeepOriginalError("nothing in it to make faster")
        source = graph_pb2.GraphDef()
        source.CopyFrom(flat.graph_def)
        known = StaticValues(flat.node, originals, shapes_only=True)
        variables = flat.replace_by_variables({tensor: known(tensor) for tensor in flat.frontier()})
        fingerprint = flat.fingerprint()
        return Rewritten(
            graph=with_variables(flat.graph_def),
            computed={name: tensor for tensor, name in variables.items()},
            source={node.name: node for node in source.node},
            report=f"{folded} normalisations folded, {fixed} filters fixed" + ", bfloat16" * self._bfloat16,
            fingerprint=fingerprint,
            representative=representative,
        )

    def _representative(self, flat: FlatGraph) -> str | None:
        """The name of a signature that needs every variable; None if there is none."""
        everything = flat.variables_under(self._tensors)
        for signature in self._signatures:
            if flat.variables_under(spec.tensor for spec in signature.outputs.values()) == everything:
                return signature.name
        return None

    def restore(self, session: Any, path: str) -> bool:
        """Restore the model in `session` and look at its weights; False if that failed, whyever."""
        return self.attempt(lambda: self._restore(session, path))

    def _restore(self, session: Any, path: str) -> None:
        try:
            self._weights = restore_and_read(session, self._saver_def, path, self._reads)
        except tf.errors.OpError as error:
            raise KeepOriginalError(
                f"its weights cannot be looked at: {error.message.splitlines()[0]}"
            ) from error
        self._saver_def = None  # it keeps the meta graph in memory

    def finish(self, original: SessionModel, load_seconds: float) -> SessionModel:
        """The faster model with the same answers, or the original; the other is closed.

        Args:
            original: restored and initialised; nothing has run yet.
            load_seconds: what the load took so far, without the rewriting. With the first runs, the measure
                of the time that there is.
        """
        if not self._weights:
            return original
        made: list[SessionModel] = []
        proved = self.attempt(lambda: self._prove(original, made, load_seconds))
        self._weights.clear()
        self.may_use_xla &= not proved
        for model in (original,) if proved else made:
            model.close()
        give_back()
        return made[0] if proved else original

    def _prove(self, original: SessionModel, made: list[SessionModel], load_seconds: float) -> None:
        """Compare and measure the new model, which is put into `made`."""
        known = self._learned.find(self._key)
        # Where all signatures were right with other weights, one that needs them all tells whether these are.
        one = known.representative if known is not None else None
        trial = Trial(original, [each for each in self._signatures if one in (None, each.name)])
        plain_seconds = load_seconds + trial.first_seconds
        spent = time.monotonic() - self._started
        rewritten = self._rewritten
        assert rewritten is not None
        graph = rewritten.graph.graph
        is_proved = self._learned.is_proved(rewritten)
        budget = Budget(
            math.inf if is_proved else plain_seconds * max(1.0, self._load_factor * _MARGIN) - spent
        )
        budget.check("open a session", trial.first_seconds * _SESSION_COST)
        give_back()
        fast = original.in_session(self._fast_session(rewritten))
        made.append(fast)
        self._weights.clear()  # the sessions have what they need
        self._rewritten = None
        error, agree = trial.compare(
            fast, budget, lossy=self._bfloat16, keeps_rows=lambda signature: keeps_rows(graph, signature)
        )
        if self._bfloat16:
            logger.info(
                "bfloat16: largest relative error %.2g, top-1 the same for %.0f %% of made-up inputs.",
                error,
                100 * agree,
            )
        give_back()
        if is_proved:
            speeds = "as an earlier version"
        else:
            speeds = worthwhile(trial.gains(fast, budget), _LEAST_GAIN, _WORTHWHILE_GAIN)
        self._learned.prove(self._key, rewritten)
        taken = time.monotonic() - self._started
        logger.info(
            "Model made fast: %s; %s. It took %.3f s, a plain load some %.3f s.",
            *(rewritten.report, speeds, taken, plain_seconds),
        )

    def _fast_session(self, rewritten: Rewritten) -> Any:
        weights = self._weights
        known = StaticValues(rewritten.source.__getitem__, weights)
        values = {
            name: aligned(known(rewritten.computed[name])) if name in rewritten.computed else weights[name]
            for name in rewritten.graph.handles
        }
        return open_session(rewritten.graph, values, unoptimised(self._config))


def _stand_in(handle: Any) -> Array:
    """What has the shape and the type of a variable."""
    shape = tf.TensorShape(handle.attr["shape"].shape)
    if not shape.is_fully_defined():
        raise KeepOriginalError(f"the shape of its variable {handle.name} is open")
    return stand_in(tuple(shape.as_list()), np.dtype(tf.as_dtype(handle.attr["dtype"].type).as_numpy_dtype))
