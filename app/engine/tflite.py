"""A `model.tflite` to a `TfLiteModel`: a TensorFlow Lite model that a pool of interpreters runs."""

from __future__ import annotations

import logging
import os
import queue
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.engine import tflite_signatures
from app.engine.dtypes import Array
from app.engine.model import Model
from app.engine.signature import DEFAULT_SIGNATURE
from app.engine.tflite_interpreter import Interpreter, Tensor
from app.errors import Code, ServingError, cannot_read

logger = logging.getLogger(__name__)

FILE = "model.tflite"


def is_in(path: str) -> bool:
    """Whether the version directory `path` holds a TensorFlow Lite model."""
    return os.path.exists(os.path.join(path, FILE))


def load(path: str, interpreters: int) -> TfLiteModel:
    """Load `model.tflite` of the version directory `path`.

    Args:
        path: holds the file.
        interpreters: how many requests can run at the same time; at least 1.

    Raises:
        ServingError: PERMISSION_DENIED for a file that cannot be read, INVALID_ARGUMENT for one that is
            damaged, INTERNAL for a model that this TensorFlow Lite cannot run.
    """
    started = time.monotonic()
    file = os.path.join(path, FILE)
    logger.info("Reading TensorFlow Lite model from: %s", file)
    try:
        with open(file, "rb") as stream:
            content = stream.read()
    except OSError as error:
        raise cannot_read(file, error.strerror) from None
    try:
        model = TfLiteModel(content, interpreters)
    except ServingError as error:
        if error.__cause__:  # TensorFlow Serving's text does not tell it
            logger.error("%s (%d bytes): %s", file, len(content), " ".join(str(error.__cause__).split()))
        raise
    logger.info(
        "TensorFlow Lite model load; Status: success: OK. %d interpreters. Took %d microseconds.",
        interpreters,
        (time.monotonic() - started) * 1e6,
    )
    return model


class TfLiteModel(Model):
    """Runs a request in the calling thread, on an interpreter that nobody else has at the time."""

    def __init__(self, content: bytes, interpreters: int) -> None:
        """Make the interpreters; they share `content`, the file.

        Raises:
            ServingError: as `load`.
        """
        first, xnnpack = _first_interpreter(content)
        # By the names that signatures have for them.
        self._inputs = _by_name(first.inputs, "Input")
        self._outputs = _by_name(first.outputs, "Output")
        super().__init__(self._signature_defs(content, first))
        # The last one back is the next one out: its memory is warm, and shaped for a request like the last.
        self._idle: queue.LifoQueue[Interpreter] = queue.LifoQueue()
        self._idle.put(first)
        for _ in range(interpreters - 1):
            interpreter = Interpreter(content, xnnpack=xnnpack)
            interpreter.allocate()
            self._idle.put(interpreter)

    def _signature_defs(self, content: bytes, interpreter: Interpreter) -> dict[str, Any]:
        """The stored signatures or a generated one, and the flatbuffer's own where their name is free."""
        stored = tflite_signatures.stored(content)
        if stored:
            signatures = tflite_signatures.fixed(stored, self._inputs, self._outputs)
        else:
            generated = tflite_signatures.generated(interpreter.inputs, interpreter.outputs)
            signatures = {DEFAULT_SIGNATURE: generated}
        for name, (inputs, outputs) in interpreter.signatures().items():
            if name not in signatures:
                signatures[name] = tflite_signatures.predict_signature(
                    _register(inputs, self._inputs), _register(outputs, self._outputs)
                )
        return signatures

    def call(
        self,
        feeds: tuple[str, ...],
        values: Sequence[Array],
        fetches: tuple[str, ...],
        deadline: float | None,  # noqa: ARG002 - a run that was begun goes on to its end
    ) -> list[Array]:
        """Run on an interpreter of the pool, once one is free."""
        given = {self._inputs[name]: value for name, value in zip(feeds, values, strict=True)}
        wanted = [self._outputs[name] for name in fetches]
        results: dict[Tensor, Array] = {}
        interpreter = self._idle.get()
        try:
            for subgraph in dict.fromkeys(tensor.subgraph for tensor in wanted):
                # What a signature leaves out must not keep the value of another request.
                inputs = (tensor for tensor in self._inputs.values() if tensor.subgraph == subgraph)
                complete = {tensor: given[tensor] if tensor in given else tensor.blank() for tensor in inputs}
                outputs = [tensor for tensor in wanted if tensor.subgraph == subgraph]
                results.update(zip(outputs, interpreter.run(complete, outputs), strict=True))
        finally:
            self._idle.put(interpreter)
        return [results[tensor] for tensor in wanted]

    def close(self) -> None:
        """Let go of the interpreters and, with them, of the file's content."""
        while not self._idle.empty():
            self._idle.get()


def _first_interpreter(content: bytes) -> tuple[Interpreter, bool]:
    """An interpreter with memory planned, and whether it uses XNNPACK."""
    try:
        interpreter = Interpreter(content, xnnpack=True)
        interpreter.allocate()
    except ServingError as error:
        if error.code is not Code.INTERNAL:
            raise
    else:
        return interpreter, True
    # Some valid models are refused by XNNPACK; it is also the cheapest way to find the real cause.
    interpreter = Interpreter(content, xnnpack=False)
    interpreter.allocate()
    return interpreter, False


def _by_name(tensors: Iterable[Tensor], side: str) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for tensor in tensors:
        if result.setdefault(tensor.name, tensor).index != tensor.index:
            raise ServingError(Code.ALREADY_EXISTS, f"{side} tensor name: {tensor.name} has multiple indices")
    return result


def _register(tensors: Mapping[str, Tensor], known: dict[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    """Give tensors of an own signature names in `known`; by alias, the name and the tensor.

    Names are unique within the primary subgraph's inputs or outputs only; others get their place in front.
    """
    result = {}
    for alias, tensor in tensors.items():
        name = tensor.name
        if name not in known or (known[name].subgraph, known[name].index) != (tensor.subgraph, tensor.index):
            name = f"{tensor.subgraph}/{tensor.index}/{name}"
        known.setdefault(name, tensor)
        result[alias] = (name, tensor)
    return result
