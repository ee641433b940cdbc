"""Makes a loaded model fast, before it is served: rewritten, compared with the original, measured.

The rewritten graph gets a session of its own, so that the original stays as it is until the other has
proved itself. Both share the memory of the weights that are the same in both.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from app.engine import graph_rewrite
from app.engine.budget import Budget, KeepOriginalError
from app.engine.fast_session import open_session, read_variables
from app.engine.flat_graph import FlatGraph
from app.engine.fold import fold_normalisation
from app.engine.graph_guards import bytes_of, obstacle, ops_of
from app.engine.session_model import SessionModel
from app.engine.static_values import StaticValues, aligned
from app.engine.trial import Trial

# Below this there is nothing to gain that would be worth a load's time.
LEAST_WEIGHT_BYTES = 256 * 1024
# Constants in the graph, unlike variables, are copied by every step.
MOST_GRAPH_BYTES = 8 * 1024 * 1024
# No signature may lose more, and one must gain as much. Measured at load, next to everything else.
_LEAST_GAIN, _WORTHWHILE_GAIN = 0.97, 1.05
# What steps take at most, in first runs of the original: TensorFlow optimises the same graph there.
_REWRITE_COST, _READ_COST, _SESSION_COST = 0.3, 0.35, 0.25

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Optimisation:
    """What may be done to models.

    Attributes:
        bfloat16: compute convolutions and matrix products in bfloat16, at whatever cost in precision.
        load_factor: what a load may take, as a multiple of what it and the first runs take without this.
    """

    bfloat16: bool = False
    load_factor: float = 2.0


def optimise(
    model: SessionModel, config: Any, graph_bytes: int, optimisation: Optimisation, load_seconds: float
) -> SessionModel:
    """A faster model with the same answers, or `model` itself. The log says which, and why.

    Args:
        model: restored and initialised; nothing has run yet. It is closed if another takes its place.
        config: the `ConfigProto` of its session.
        graph_bytes: the size of its graph, constants included.
        optimisation: what may be done.
        load_seconds: what the load took so far. With the first runs, the measure of the time that there is.
    """
    started = time.monotonic()
    work = _Work(model, config, optimisation)
    try:
        work.check_guards(graph_bytes)
        fast = work.run(load_seconds, time.monotonic() - started)
    except Exception as reason:  # whatever it is, the original can be served
        work.give_up()
        if not isinstance(reason, KeepOriginalError):
            logger.exception("Making a model fast failed")
        logger.info("Model kept as it is: %s (%.3f s).", reason, time.monotonic() - started)
        return model
    logger.info(
        "Model made fast: %s. Load and first runs took %.3f s, this %.3f s more.",
        work.report,
        load_seconds + work.first_seconds,
        time.monotonic() - started - work.first_seconds,
    )
    model.close()
    return fast


class _Work:
    """The steps on one model, and what they share."""

    def __init__(self, model: SessionModel, config: Any, optimisation: Optimisation) -> None:
        self.report = ""
        self.first_seconds = 0.0
        self._model = model
        self._config = config
        self._bfloat16 = optimisation.bfloat16
        self._load_factor = optimisation.load_factor
        self._fast: SessionModel | None = None
        self._graph_def: Any = None
        self._signatures = [signature for signature in model.signatures.values() if signature.is_callable]
        self._tensors = list(
            dict.fromkeys(
                spec.tensor
                for signature in self._signatures
                for spec in (*signature.inputs.values(), *signature.outputs.values())
            )
        )

    def check_guards(self, graph_bytes: int) -> None:
        """Find reasons not to begin, the cheap ones first."""
        if not self._tensors or "" in self._tensors:
            raise KeepOriginalError("no signature of plain tensors")
        if graph_bytes > MOST_GRAPH_BYTES:
            raise KeepOriginalError(
                f"its graph holds {graph_bytes // 10**6} MB of constants, which would be copied"
            )
        session = self._model.session
        devices = [device.device_type for device in session.list_devices()]
        if devices != ["CPU"]:
            raise KeepOriginalError(f"its session has other devices than one CPU: {', '.join(devices)}")
        needed = FlatGraph(session.graph.as_graph_def(), self._tensors)
        needed.prune()
        self._graph_def = needed.graph_def
        if reason := obstacle(self._graph_def):
            raise KeepOriginalError(reason)
        if sum(map(bytes_of, self._graph_def.node)) < LEAST_WEIGHT_BYTES:
            raise KeepOriginalError("too small to gain")
        if not graph_rewrite.GAINING & ops_of(self._graph_def).keys():
            raise KeepOriginalError("nothing in it to make faster")

    def run(self, load_seconds: float, spent: float) -> SessionModel:
        """Rewrite, compare, measure; the new model. Of the time that there is, some is `spent`."""
        trial = Trial(self._model, self._signatures)
        self.first_seconds = trial.first_seconds
        budget = Budget((load_seconds + self.first_seconds) * (self._load_factor - 1) - spent)
        fast = self._fast = self._model.in_session(self._rewritten(budget))
        trial.ask_larger(budget)
        error, agree = trial.compare(fast, budget, lossy=self._bfloat16)
        if self._bfloat16:
            logger.info(
                "bfloat16: largest relative error %.2g, top-1 the same for %.0f %% of made-up inputs.",
                error,
                100 * agree,
            )
        gains = trial.gains(fast, budget)
        slowest, gain = min(gains.items(), key=lambda item: item[1])
        if gain < _LEAST_GAIN or max(gains.values()) < _WORTHWHILE_GAIN:
            raise KeepOriginalError(f"not faster ({gain:.2f} times the speed for {slowest})")
        speeds = ", ".join(f"{name} {gain:.2f}" for name, gain in gains.items())
        self.report += f"; times the speed: {speeds}"
        return fast

    def _rewritten(self, budget: Budget) -> Any:
        """A session with the rewritten graph."""
        budget.check("read the weights", self.first_seconds * _READ_COST)
        names = [node.name for node in self._graph_def.node if node.op == "VarHandleOp"]
        originals = read_variables(self._model.session, names)
        budget.check("rewrite the graph", self.first_seconds * _REWRITE_COST)
        flat = FlatGraph(graph_rewrite.flatten(self._graph_def, self._tensors), self._tensors)
        flat.prune()
        known = StaticValues(flat.node, originals)
        folded = fold_normalisation(flat, lambda key: known(key).shape)
        flat.share()
        budget.check("optimise the graph", self.first_seconds * _REWRITE_COST)
        graph_def = graph_rewrite.optimise(flat.graph_def, self._tensors, bfloat16=self._bfloat16)
        flat = FlatGraph(graph_def, self._tensors)
        fixed = graph_rewrite.fix_filters(flat)
        flat.prune()
        if not folded and not fixed and not self._bfloat16:
            raise KeepOriginalError("nothing in it to make faster")
        budget.check("open a session", self.first_seconds * _SESSION_COST)
        known = StaticValues(flat.node, originals)
        variables = flat.replace_by_variables({tensor: aligned(known(tensor)) for tensor in flat.frontier()})
        variables.update(
            {node.name: originals[node.name] for node in flat.variables() if node.name in originals}
        )
        self.report = f"{folded} normalisations folded, {fixed} filters fixed" + (
            ", bfloat16" * self._bfloat16
        )
        return open_session(flat, variables, self._config)

    def give_up(self) -> None:
        """Close what was made."""
        if self._fast is not None:
            self._fast.close()
