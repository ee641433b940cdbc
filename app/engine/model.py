"""A loaded model version: its signatures, and the cheapest way TensorFlow has to run them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.framework import tensor_util

from app.engine import dtypes
from app.engine.dtypes import Array
from app.engine.signature import Signature, TensorSpec, example_input, spec_of
from app.engine.status import tensorflow_errors
from app.errors import ServingError, invalid_argument

logger = logging.getLogger(__name__)

# A client may ask for any subset of a signature's outputs; this bounds what is kept for them.
_CALLABLES_KEPT = 64


class Model:
    """One loaded SavedModel. `run` may be called from any number of threads.

    Attributes:
        signatures: what can be called, by name.
        signature_defs: the protos as they stand in the SavedModel, for metadata requests.
    """

    def __init__(self, session: Any, signature_defs: Mapping[str, Any]) -> None:
        """Take over `session`, in which the model is restored and initialised."""
        self._session = session
        self._session_lock = threading.Lock()
        self.signature_defs = dict(signature_defs)
        self.signatures = {name: _signature(name, proto) for name, proto in signature_defs.items()}
        # The callable keeps the session alive; making one extends the graph, which is not thread-safe.
        self._callable = lru_cache(maxsize=_CALLABLES_KEPT)(self._make_callable)
        self._plan = lru_cache(maxsize=_CALLABLES_KEPT)(self._make_plan)

    def run(
        self, signature: Signature, inputs: Mapping[str, Array], outputs: Sequence[str] = ()
    ) -> dict[str, Array]:
        """Run a signature in the calling thread, without holding the GIL.

        Args:
            signature: one of `signatures`.
            inputs: a value for every input, by alias.
            outputs: the aliases to compute; all when empty.

        Returns:
            The outputs by alias. Strings are object arrays of bytes.

        Raises:
            ServingError: INVALID_ARGUMENT for another element type than declared; else what
                TensorFlow answers.
        """
        aliases = tuple(outputs) or tuple(signature.outputs)
        specs, tensors = self._plan(signature.name, aliases)
        by_tensor = self.run_tensors(specs, {spec.tensor: inputs[spec.alias] for spec in specs}, tensors)
        return {alias: by_tensor[signature.outputs[alias].tensor] for alias in aliases}

    def run_tensors(
        self, feeds: tuple[TensorSpec, ...], values: Mapping[str, Array], fetches: tuple[str, ...]
    ) -> dict[str, Array]:
        """Run the graph itself, for what spans several signatures.

        Args:
            feeds: the inputs, no tensor twice, sorted by tensor name.
            values: a value for each, by tensor name.
            fetches: the names of the tensors to compute, none twice.

        Returns:
            The tensors by name.

        Raises:
            ServingError: as `run`.
        """
        for index, spec in enumerate(feeds):
            value = values[spec.tensor]
            if value.dtype != spec.dtype.numpy:
                found = dtypes.of_array(value)
                if found != spec.dtype:
                    raise invalid_argument(
                        f"Expects arg[{index}] to be {spec.dtype.name} but {found.name} is provided"
                    )
        call = self._callable(tuple(spec.tensor for spec in feeds), fetches)
        with tensorflow_errors():
            results = call(*[values[spec.tensor] for spec in feeds])
        return {name: _array(value) for name, value in zip(fetches, results, strict=True)}

    def _make_plan(
        self, name: str, aliases: tuple[str, ...]
    ) -> tuple[tuple[TensorSpec, ...], tuple[str, ...]]:
        """What to feed and fetch for some outputs of a signature."""
        signature = self.signatures[name]
        fetches = dict.fromkeys(signature.outputs[alias].tensor for alias in aliases)
        return sorted_feeds(signature.inputs.values()), tuple(fetches)

    def _make_callable(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Any:
        options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
        # -1 runs the graph in the caller's thread: no hand-over, a few microseconds for a small graph.
        options.run_options.inter_op_thread_pool = -1
        with self._session_lock, tensorflow_errors():
            return self._session._make_callable_from_options(options)

    def warm_up(self) -> None:
        """Run every signature once on an example made from its declaration, where that works.

        A signature that cannot be run on such an example (one that parses its input, say) is left
        cold; only the log says so.
        """
        for signature in self.signatures.values():
            inputs = {alias: example_input(spec) for alias, spec in signature.inputs.items()}
            values = {alias: value for alias, value in inputs.items() if value is not None}
            if not signature.is_callable or len(values) != len(inputs):
                continue
            started = time.monotonic()
            try:
                self.run(signature, values)
            except ServingError as error:
                logger.info("Signature %s stays cold: %s", signature.name, str(error).splitlines()[0])
            else:
                logger.info("Signature %s warmed up in %.3f s.", signature.name, time.monotonic() - started)

    def close(self) -> None:
        """Give the session's memory back. Nothing runs any more, or will."""
        self._callable.cache_clear()
        self._session.close()


def sorted_feeds(specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    """`specs`, one for each tensor, in the order in which TensorFlow numbers arguments in error texts."""
    by_tensor = {spec.tensor: spec for spec in specs}
    return tuple(by_tensor[tensor] for tensor in sorted(by_tensor))


def _array(value: Any) -> Array:
    """What TensorFlow returned as an array: of a tensor without dimensions it returns the bare element."""
    if isinstance(value, np.ndarray):
        return value
    return np.array(value, object if isinstance(value, bytes) else None)


def _signature(name: str, proto: Any) -> Signature:
    return Signature(
        name=name,
        method_name=proto.method_name,
        inputs={alias: spec_of(alias, info) for alias, info in proto.inputs.items()},
        outputs={alias: spec_of(alias, info) for alias, info in proto.outputs.items()},
        defaults={alias: tensor_util.MakeNdarray(value) for alias, value in proto.defaults.items()},
    )
