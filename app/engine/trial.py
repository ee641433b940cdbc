"""The original and a faster model side by side, on made-up inputs: the same answers, and in what time."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.engine import generated_inputs
from app.engine.budget import Budget, KeepOriginalError
from app.engine.comparison import difference, same_choice
from app.engine.dtypes import Array
from app.engine.model import Model
from app.engine.signature import Signature
from app.errors import ServingError

# Small ones: what a run needs besides the weights grows with the batch, and it counts at the load's peak.
_BATCH, _LARGER_BATCH = 1, 2
# What a run takes at most that needs no TensorFlow optimiser, in first runs of the original.
_WARM = 0.35
_LEAST_ROUNDS, _MOST_ROUNDS = 2, 15
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
        self._compared: list[float] = []
        started = time.monotonic()
        self._answers = [self._answer(signature, _BATCH) for signature in signatures]
        self.first_seconds = time.monotonic() - started

    def ask_larger(self, budget: Budget) -> None:
        """Run the original at the larger batch size as well.

        Raises:
            KeepOriginalError: a signature does not take it, or there is no time.
        """
        for answer in tuple(self._answers):
            budget.check("run the original", answer.seconds * _WARM)
            self._answers.append(self._answer(answer.signature, _LARGER_BATCH))

    def _answer(self, signature: Signature, batch: int) -> _Answer:
        for inputs in generated_inputs.candidates(signature, batch):
            started = time.monotonic()
            try:
                outputs = self._model.run(signature, inputs)
            except ServingError:
                continue
            return _Answer(batch, signature, inputs, outputs, time.monotonic() - started)
        raise KeepOriginalError(f"signature {signature.name} takes no made-up input")

    def compare(self, fast: Model, budget: Budget, *, lossy: bool = False) -> tuple[float, float]:
        """Compare all answers, or raise.

        Args:
            fast: the other model.
            budget: asked before every run.
            lossy: whether floats may differ by any amount.

        Returns:
            The largest relative error, and the least share of rows with the same top-1 choice.

        Raises:
            KeepOriginalError: an answer differs by more than the tolerance, or there is no time.
        """
        worst, agree = 0.0, 1.0
        for answer in self._answers:
            budget.check("compare answers", answer.seconds * (_WARM if answer.batch == _BATCH else 1))
            started = time.perf_counter()
            try:
                found = fast.run(answer.signature, answer.inputs)
            except ServingError as error:
                reason = str(error).splitlines()[0]
                raise KeepOriginalError(f"the fast one fails: {reason}") from error
            self._compared.append(time.perf_counter() - started)
            for alias, expected in answer.outputs.items():
                error_, limit = difference(expected, found[alias])
                if math.isinf(error_) or (error_ > limit and not lossy):
                    raise KeepOriginalError(
                        f"output {alias} of {answer.signature.name} would differ by {error_:.2g} of its size"
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
        signatures = len(self._answers) // 2
        for number, answer in enumerate(self._answers):
            # The runs that were compared are a round as well, except the first, which were slow: what the
            # larger batch took bounds what is to come.
            first = answer.batch == _BATCH
            like = number + signatures if first else number
            slow, quick = self._answers[like].seconds, self._compared[like]
            rounds = _LEAST_ROUNDS if first else _LEAST_ROUNDS - 1
            end = time.monotonic() + min(_MOST_SECONDS, budget.left() / 2 / (len(self._answers) - number))
            for round_ in range(_MOST_ROUNDS):
                if round_ < rounds:
                    budget.check("measure", slow + quick)
                elif time.monotonic() > end and (
                    slow > quick or budget.left() < (slow + quick) * (len(self._answers) - number + 1)
                ):
                    break  # a loss is looked at again: it may be that of a busy machine
                slow = min(slow, self._seconds(self._model, answer))
                quick = min(quick, self._seconds(fast, answer))
            gains[f"{answer.signature.name} at batch {answer.batch}"] = slow / quick
        return gains

    @staticmethod
    def _seconds(model: Model, answer: _Answer) -> float:
        started = time.perf_counter()
        model.run(answer.signature, answer.inputs)
        return time.perf_counter() - started
