"""Makes a loaded model fast, before it is served: rewritten, compared with the original, measured.

The rewritten graph lives beside the original in the same session, so that both share the weights that
are the same in both. The one that is not kept loses the weights that it has for itself.
"""

from __future__ import annotations

import logging
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.util import _pywrap_util_port

from app.engine import generated_inputs, graph_rewrite
from app.engine.comparison import difference, same_choice
from app.engine.dtypes import Array
from app.engine.fold import fold_normalisation
from app.engine.graph_guards import bytes_of, obstacle
from app.engine.graph_rewrite import FlatGraph
from app.engine.session_model import SessionModel
from app.engine.signature import Signature
from app.errors import ServingError

# Below this there is nothing to gain that would be worth a load's time.
LEAST_WEIGHT_BYTES = 256 * 1024
# Constants in the graph, unlike variables, are copied by every step.
MOST_GRAPH_BYTES = 64 * 1024 * 1024
_LEAST_GAIN = 1.03
# Small ones: what a run needs besides the weights grows with the batch, and it counts at the load's peak.
_BATCHES = (1, 2)
_MOST_ROUNDS, _LEAST_ROUNDS = 15, 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Optimisation:
    """What may be done to models.

    Attributes:
        bfloat16: compute convolutions and matrix products in bfloat16, at whatever cost in precision.
    """

    bfloat16: bool = False


class _KeepOriginalError(Exception):
    """Says why."""


def optimise(
    model: SessionModel, session: Any, graph_bytes: int, optimisation: Optimisation, load_seconds: float
) -> SessionModel:
    """A faster model with the same answers, or `model` itself. The log says which, and why.

    Args:
        model: restored and initialised; nothing has run yet.
        session: the one it runs in.
        graph_bytes: the size of its graph, constants included.
        optimisation: what may be done.
        load_seconds: what the load took so far; the work stops when it would take longer than that.

    Raises:
        Exception: whatever else goes wrong; the session must then be given up.
    """
    started = time.monotonic()
    before = _resident_megabytes()
    work = _Work(model, session, optimisation, load_seconds)
    try:
        work.check_guards(graph_bytes)
        fast, report = work.run()
    except _KeepOriginalError as reason:
        work.drop_new_variables()
        logger.info("Model kept as it is: %s (%.3f s).", reason, time.monotonic() - started)
        return model
    logger.info(
        "Model made fast: %s. Load took %.3f s, this %.3f s more. Resident memory: %d MB before, "
        "%d MB after, weights %d MB.",
        report,
        load_seconds,
        time.monotonic() - started,
        before,
        _resident_megabytes(),
        work.weight_bytes // 10**6,
    )
    return fast


@dataclass(frozen=True)
class _Answer:
    """What the original answers to made-up inputs."""

    signature: Signature
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    seconds: float


class _Work:
    """The steps on one model, and what they share."""

    def __init__(
        self, model: SessionModel, session: Any, optimisation: Optimisation, load_seconds: float
    ) -> None:
        self.weight_bytes = 0
        self._load_seconds = load_seconds
        self._deadline = time.monotonic() + load_seconds
        self._answers: list[_Answer] = []
        self._model = model
        self._session = session
        self._graph = session.graph
        self._optimisation = optimisation
        self._handles: list[Any] = []
        self._old_handles = [
            operation.outputs[0]
            for operation in session.graph.get_operations()
            if operation.type == "VarHandleOp"
        ]
        self._signatures = [signature for signature in model.signatures.values() if signature.is_callable]
        specs = [
            spec
            for signature in self._signatures
            for spec in (*signature.inputs.values(), *signature.outputs.values())
        ]
        self._tensors = list(dict.fromkeys(spec.tensor for spec in specs))

    def check_guards(self, graph_bytes: int) -> None:
        """Find reasons not to begin, the cheap ones first."""
        if not self._tensors or "" in self._tensors:
            raise _KeepOriginalError("no signature of plain tensors")
        if graph_bytes > MOST_GRAPH_BYTES:
            raise _KeepOriginalError(
                f"its graph holds {graph_bytes // 10**6} MB of constants, which would be copied"
            )
        if any(device.device_type != "CPU" for device in self._session.list_devices()):
            raise _KeepOriginalError("it runs on an accelerator")
        needed = FlatGraph(self._graph.as_graph_def(), self._tensors)
        needed.prune()
        graph_def = self._original = needed.graph_def
        if reason := obstacle(graph_def):
            raise _KeepOriginalError(reason)
        self.weight_bytes = sum(map(bytes_of, graph_def.node))
        if self.weight_bytes < LEAST_WEIGHT_BYTES:
            raise _KeepOriginalError("too small to gain")

    def run(self) -> tuple[SessionModel, str]:
        """Rewrite, compare, measure; the new model and what was done."""
        # A load without this work would end with these first runs: they count as part of it.
        self._load_seconds += self._run_original()
        self._deadline = time.monotonic() + self._load_seconds
        flat = self._rewritten()
        names = self._import(flat)
        self._check_time()
        fast = self._model.with_tensors(names)
        report = []
        found = [self._compare(fast, answer) for answer in self._answers]
        if self._optimisation.bfloat16:
            logger.info(
                "bfloat16: largest relative error %.2g, top-1 the same for %.0f %% of made-up inputs.",
                max(error for error, _ in found),
                100 * min(same for _, same in found),
            )
        for batch, answer in zip(_BATCHES, self._answers, strict=False):  # the first signature's
            gain = self._gain(fast, answer)
            report.append(f"{gain:.2f} times the speed at batch {batch}")
            if gain < _LEAST_GAIN:
                raise _KeepOriginalError(f"not faster ({report[-1]})")
        self._drop_variables_beside({node.name for node in flat.variables()})
        return fast, f"{self._done}; {', '.join(report)}"

    def _run_original(self) -> float:
        """Record what the original answers to made-up inputs; the seconds of the runs that were the first."""
        first = 0.0
        for signature in self._signatures:
            for batch in _BATCHES:
                answer = self._answer(signature, batch)
                if answer is None:
                    raise _KeepOriginalError(f"signature {signature.name} takes no made-up input")
                self._answers.append(answer)
                first += answer.seconds if batch == 1 else 0.0
        return first

    def _answer(self, signature: Signature, batch: int) -> _Answer | None:
        for inputs in generated_inputs.candidates(signature, batch):
            started = time.monotonic()
            try:
                outputs = self._model.run(signature, inputs)
            except ServingError:
                continue
            return _Answer(signature, inputs, outputs, time.monotonic() - started)
        return None

    def _rewritten(self) -> FlatGraph:
        graph_def = graph_rewrite.flatten(self._original, self._tensors)
        flat = FlatGraph(graph_def, self._tensors)
        folded = fold_normalisation(flat, _Shapes(graph_def))
        flat.share()
        bfloat16 = self._optimisation.bfloat16
        graph_def = graph_rewrite.optimise(flat.graph_def, self._tensors, bfloat16=bfloat16)
        flat = FlatGraph(graph_def, self._tensors)
        fixed = flat.fix_filters() if _pywrap_util_port.IsMklEnabled() else 0
        flat.prune()
        if not folded and not fixed and not bfloat16:
            raise _KeepOriginalError("nothing in it to make faster")
        self._check_time()
        self._done = f"{folded} normalisations folded, {fixed} filters fixed" + (", bfloat16" * bfloat16)
        return flat

    def _import(self, flat: FlatGraph) -> dict[str, str]:
        """Bring the rewritten graph into the session; the new name of each tensor."""
        once = flat.frontier()
        graph = self._graph
        old = {f"{node.name}:0": graph.get_tensor_by_name(f"{node.name}:0") for node in flat.variables()}
        with graph.as_default():
            values = tf.import_graph_def(flat.graph_def, old, once, name="computed_once") or []
            assignments, inputs, variables = [], {}, {}
            for number, (tensor, value) in enumerate(zip(once, values, strict=True)):
                handle = tf.raw_ops.VarHandleOp(
                    dtype=value.dtype, shape=value.shape, shared_name=f"computed_once/{tensor}"
                )
                self._handles.append(handle)
                assignments.append(tf.raw_ops.AssignVariableOp(resource=handle, value=value))
                outside = f"outside_{number}"
                inputs[f"{outside}:0"] = handle
                variables[tensor] = (outside, value.dtype.as_datatype_enum)
            self._session.run(assignments)
            flat.replace_by_variables(variables)
            left = {f"{node.name}:0" for node in flat.variables()}
            inputs.update({name: handle for name, handle in old.items() if name in left})
            new = tf.import_graph_def(flat.graph_def, inputs, self._tensors, name="optimised")
        return {tensor: found.name for tensor, found in zip(self._tensors, new, strict=True)}

    def _compare(self, fast: SessionModel, answer: _Answer) -> tuple[float, float]:
        """The largest relative error, and the share of rows with the same top-1 choice."""
        try:
            found = fast.run(answer.signature, answer.inputs)
        except ServingError as error:
            raise _KeepOriginalError(f"the fast one fails: {str(error).splitlines()[0]}") from error
        worst, agree = 0.0, 1.0
        for alias, expected in answer.outputs.items():
            error_, limit = difference(expected, found[alias])
            if math.isinf(error_) or (error_ > limit and not self._optimisation.bfloat16):
                raise _KeepOriginalError(
                    f"output {alias} of {answer.signature.name} would differ by {error_:.2g} of its size"
                )
            worst, agree = max(worst, error_), min(agree, same_choice(expected, found[alias]))
        return worst, agree

    def _gain(self, fast: SessionModel, answer: _Answer) -> float:
        """How many times as fast it is, by runs in turn; a few even if the time is over."""
        once = _seconds(self._model, answer.signature, answer.inputs)
        ratios: list[float] = []
        while len(ratios) < _LEAST_ROUNDS or (
            len(ratios) < _MOST_ROUNDS and time.monotonic() + 2 * once < self._deadline
        ):
            ratios.append(
                _seconds(self._model, answer.signature, answer.inputs)
                / _seconds(fast, answer.signature, answer.inputs)
            )
        return statistics.median(ratios)

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise _KeepOriginalError("it would more than double the time to load")

    def drop_new_variables(self) -> None:
        """Give back what the rewritten graph has for itself."""
        self._destroy(self._handles)

    def _drop_variables_beside(self, kept: set[str]) -> None:
        self._destroy([handle for handle in self._old_handles if handle.op.name not in kept])

    def _destroy(self, handles: Sequence[Any]) -> None:
        if not handles:
            return
        with self._graph.as_default():
            self._session.run(
                [
                    tf.raw_ops.DestroyResourceOp(resource=handle, ignore_lookup_error=True)
                    for handle in handles
                ]
            )


def _seconds(model: SessionModel, signature: Signature, inputs: Mapping[str, Array]) -> float:
    started = time.perf_counter()
    model.run(signature, inputs)
    return time.perf_counter() - started


class _Shapes:
    """The shapes of a graph's tensors, where they are known."""

    def __init__(self, graph_def: Any) -> None:
        self._graph = tf.Graph()
        with self._graph.as_default():
            tf.import_graph_def(graph_def, name="")

    def __call__(self, key: str) -> list[int] | None:
        try:
            shape = self._graph.get_tensor_by_name(key if ":" in key else f"{key}:0").shape
        except KeyError:  # made since
            return None
        return list(shape.as_list()) if shape.is_fully_defined() else None


def _resident_megabytes() -> int:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 10**6
