"""A loaded model version, whatever runs it: its signatures and how they are called."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from tensorflow.python.framework import tensor_util

from app.engine import dtypes
from app.engine.dtypes import Array
from app.engine.signature import Signature, TensorSpec, spec_of
from app.errors import invalid_argument

# A client may ask for any subset of a signature's outputs; this bounds what is kept for them.
PLANS_KEPT = 64


class Model(abc.ABC):
    """One loaded version. `run` and `run_tensors` may be called from any number of threads.

    Attributes:
        signatures: what can be called, by name.
        signature_defs: the protos as they stand in the model's file, for metadata requests.
        needs_alignment: whether elements must stand at multiples of their size. Not so where they are
            copied anyway, to the memory of a batch, say.
    """

    needs_alignment = True

    def __init__(self, signature_defs: Mapping[str, Any]) -> None:
        """Read `signature_defs`, name to `SignatureDef`."""
        self.signature_defs = dict(signature_defs)
        self.signatures = {name: read_signature(name, proto) for name, proto in signature_defs.items()}
        # Bound to the signatures, not to self: a cycle would keep the version's memory until a collection.
        self._plan = lru_cache(maxsize=PLANS_KEPT)(partial(_make_plan, self.signatures))

    def run(
        self,
        signature: Signature,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] = (),
        *,
        deadline: float | None = None,
    ) -> dict[str, Array]:
        """Run a signature.

        Args:
            signature: one of `signatures`.
            inputs: a value for every input, by alias.
            outputs: the aliases to compute; all when empty.
            deadline: on `time.monotonic`; for a model that lets requests wait.

        Returns:
            The outputs by alias. Strings are object arrays of bytes.

        Raises:
            ServingError: INVALID_ARGUMENT for another element type than declared; else what
                TensorFlow answers.
        """
        aliases = tuple(outputs) or tuple(signature.outputs)
        plan = self._plan(signature.name, aliases)
        values = [inputs[spec.alias] for spec in plan.specs]
        self.check(plan.specs, values)
        results = self.call(plan.feeds, values, plan.fetches, deadline)
        return {alias: results[index] for alias, index in plan.outputs}

    def run_tensors(
        self,
        feeds: tuple[TensorSpec, ...],
        values: Mapping[str, Array],
        fetches: tuple[str, ...],
        *,
        deadline: float | None = None,
    ) -> dict[str, Array]:
        """Run by tensor names, for what spans several signatures.

        Args:
            feeds: the inputs, no tensor twice, sorted by tensor name.
            values: a value for each, by tensor name.
            fetches: the names of the tensors to compute, none twice.
            deadline: as for `run`.

        Returns:
            The tensors by name.

        Raises:
            ServingError: as `run`.
        """
        arrays = [values[spec.tensor] for spec in feeds]
        self.check(feeds, arrays)
        results = self.call(tuple(spec.tensor for spec in feeds), arrays, fetches, deadline)
        return dict(zip(fetches, results, strict=True))

    def check(self, feeds: tuple[TensorSpec, ...], values: Sequence[Array]) -> None:
        """Refuse an element type other than declared: INVALID_ARGUMENT. `values` are those of `feeds`.

        What overrides it looks at types and shapes alone: the answer is remembered by them.
        """
        for index, (spec, value) in enumerate(zip(feeds, values, strict=True)):
            if value.dtype != spec.dtype.numpy:
                found = dtypes.of_array(value)
                if found != spec.dtype:
                    raise invalid_argument(
                        f"Expects arg[{index}] to be {spec.dtype.name} but {found.name} is provided"
                    )

    @abc.abstractmethod
    def call(
        self,
        feeds: tuple[str, ...],
        values: Sequence[Array],
        fetches: tuple[str, ...],
        deadline: float | None,
    ) -> list[Array]:
        """Compute the tensors `fetches`, in their order, from a value for each of the tensors `feeds`.

        For models that wrap others; `values` have passed `check`.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Give the version's memory back. Nothing runs any more, or will."""


def sorted_feeds(specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    """`specs`, one for each tensor, in the order in which TensorFlow numbers arguments in error texts."""
    by_tensor = {spec.tensor: spec for spec in specs}
    return tuple(by_tensor[tensor] for tensor in sorted(by_tensor))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to feed and fetch for some outputs of a signature.

    Attributes:
        specs: the inputs.
        feeds: the names of their tensors.
        fetches: the names of the tensors to compute.
        outputs: for each alias, which of these it is.
    """

    specs: tuple[TensorSpec, ...]
    feeds: tuple[str, ...]
    fetches: tuple[str, ...]
    outputs: tuple[tuple[str, int], ...]


def _make_plan(signatures: Mapping[str, Signature], name: str, aliases: tuple[str, ...]) -> _Plan:
    signature = signatures[name]
    specs = sorted_feeds(signature.inputs.values())
    tensors = {alias: signature.outputs[alias].tensor for alias in aliases}
    fetches = tuple(dict.fromkeys(tensors.values()))
    outputs = tuple((alias, fetches.index(tensor)) for alias, tensor in tensors.items())
    return _Plan(specs, tuple(spec.tensor for spec in specs), fetches, outputs)


def read_signature(name: str, proto: Any) -> Signature:
    """Read a `SignatureDef` proto."""
    return Signature(
        name=name,
        method_name=proto.method_name,
        inputs={alias: spec_of(alias, info) for alias, info in proto.inputs.items()},
        outputs={alias: spec_of(alias, info) for alias, info in proto.outputs.items()},
        defaults={alias: tensor_util.MakeNdarray(value) for alias, value in proto.defaults.items()},
    )
