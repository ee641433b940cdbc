"""The original and a faster model side by side, on made-up inputs: the same answers, and in what time."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.engine import generated_inputs
from app.engine.budget import Budget, KeepOriginalError
from app.engine.comparison import difference, same_choice
from app.engine.dtypes import Array
from app.engine.memory import give_back
from app.engine.model import Model
from app.engine.signature import Signature
from app.errors import ServingError

# The first that a signature takes. One row comes before two: what a run needs besides the weights grows with
# the batch, and it counts at the load's peak.
_BATCHES = (1, 2)
# In first runs of the original: what the first run of another session takes at most, as it needs no optimiser
# of TensorFlow's, and what a round takes once both have run.
_UNOPTIMISED, _WARM = 0.35, 0.2
_MOST_ROUNDS = 15
# One round is enough for this.
_CLEAR = 1.15
# What all rounds for one input may take, if there is time.
_MOST_SECONDS = 0.1


@dataclass(frozen=True)
class _Answer:
    """What the original answers."""

    batch: int
    signature: Signature
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    seconds: float

    def twice(self) -> Iterator[_Answer]:
        """What two rows like this one row get, if rows are open: a rewrite may have fixed their number."""
        specs = (*self.signature.inputs.values(), *self.signature.outputs.values())
        if self.batch == 1 and all(spec.shape and spec.shape[0] < 0 for spec in specs):
            inputs, outputs = (
                {alias: np.repeat(value, 2, axis=0) for alias, value in values.items()}
                for values in (self.inputs, self.outputs)
            )
            yield _Answer(2, self.signature, inputs, outputs, self.seconds * 2)


class Trial:
    """Compares with one original.

    Attributes:
        first_seconds: what the first runs of all signatures took; a load without this work has them too.
    """

    def __init__(self, model: Model, signatures: Sequence[Signature]) -> None:
        """Run the original; it has not run before.

        Raises:
            KeepOriginalError: a signature takes none of the made-up inputs.
        """
        self._model = model
        started = time.monotonic()
        self._answers = [self._answer(signature) for signature in signatures]
        self.first_seconds = time.monotonic() - started

    def _answer(self, signature: Signature) -> _Answer:
        give_back()  # what the restore or the last first run left
        for batch in _BATCHES:
            for inputs in generated_inputs.candidates(signature, batch):
                started = time.monotonic()
                try:
                    outputs = self._model.run(signature, inputs)
                except ServingError:
                    continue
                return _Answer(batch, signature, inputs, outputs, time.monotonic() - started)
        raise KeepOriginalError(f"signature {signature.name} takes no made-up input")

    def compare(
        self,
        fast: Model,
        budget: Budget,
        *,
        lossy: bool = False,
        keeps_rows: Callable[[Signature], bool] = lambda _: False,
    ) -> tuple[float, float]:
        """Compare all answers, or raise.

        Args:
            fast: the other model.
            budget: asked before every run.
            lossy: whether floats may differ by any amount.
            keeps_rows: whether any number of rows is known to get as many answers from a signature. Others
                are asked for two rows as well, for which TensorFlow needs more memory than for one.

        Returns:
            The largest relative error, and the least share of rows with the same top-1 choice.

        Raises:
            KeepOriginalError: an answer differs by more than the tolerance, or there is no time.
        """
        worst, agree = 0.0, 1.0
        for wanted in itertools.chain.from_iterable(
            (each,) if keeps_rows(each.signature) else (each, *each.twice()) for each in self._answers
        ):
            budget.check("compare answers", wanted.seconds * _UNOPTIMISED)
            try:
                found = fast.run(wanted.signature, wanted.inputs)
            except ServingError as error:
                reason = str(error).splitlines()[0]
                raise KeepOriginalError(f"the fast one fails: {reason}") from error
            for alias, expected in wanted.outputs.items():
                error_, limit = difference(expected, found[alias])
                if math.isinf(error_) or (error_ > limit and not lossy):
                    raise KeepOriginalError(
                        f"output {alias} of {wanted.signature.name} would differ by {error_:.2g} of its size"
                    )
                worst, agree = max(worst, error_), min(agree, same_choice(expected, found[alias]))
        return worst, agree

    def gains(self, fast: Model, budget: Budget) -> dict[str, float]:
        """How many times as fast it is, for each signature and batch size.

        Runs of both are taken in turn, and the best times compared: the others are a busy machine's.

        Raises:
            KeepOriginalError: there is no time for a few runs of each.
        """
        gains = {}
        for number, answer in enumerate(self._answers):
            share = min(_MOST_SECONDS, budget.left() / 2 / (len(self._answers) - number))
            gains[f"{answer.signature.name} at batch {answer.batch}"] = self._gain(
                fast, answer, budget, share
            )
        return gains

    def _gain(self, fast: Model, answer: _Answer, budget: Budget, share: float) -> float:
        slow = quick = math.inf
        end = time.monotonic() + share
        for round_ in range(_MOST_ROUNDS):
            if round_ < 1:
                budget.check("measure", answer.seconds * _WARM)
            elif slow > quick * _CLEAR or (round_ > 1 and slow > quick and time.monotonic() > end):
                break
            elif time.monotonic() > end and budget.left() < slow + quick:
                break  # else a loss is looked at again: it may be that of a busy machine
            slow = min(slow, self._seconds(self._model, answer))
            quick = min(quick, self._seconds(fast, answer))
        return slow / quick

    @staticmethod
    def _seconds(model: Model, answer: _Answer) -> float:
        started = time.perf_counter()
        model.run(answer.signature, answer.inputs)
        return time.perf_counter() - started


def keeps_rows(graph: Any, signature: Signature) -> bool:
    """Whether the rows of a signature's answers are still open in `graph`, as far as TensorFlow tells.

    A rewrite that had fixed their number would have done so by a constant, which shape inference looks
    through.
    """
    outputs = [graph.get_tensor_by_name(spec.tensor).shape for spec in signature.outputs.values()]
    return all(shape.rank and shape[0] is None for shape in outputs)


def worthwhile(gains: Mapping[str, float], least: float, most: float) -> str:
    """What the log says of gains, by signature, of which each is `least` and one is `most`.

    Raises:
        KeepOriginalError: they are less.
    """
    slowest, gain = min(gains.items(), key=lambda item: item[1])
    if gain < least or max(gains.values()) < most:
        raise KeepOriginalError(f"not faster ({gain:.2f} times the speed for {slowest})")
    return "times the speed: " + ", ".join(f"{name} {gain:.2f}" for name, gain in gains.items())
