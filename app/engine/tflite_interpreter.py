"""TensorFlow Lite's interpreter: its tensors as data, its calls with TensorFlow Serving's error texts.

This uses the C++ wrapper below `tf.lite.Interpreter`: the class warns of its removal each time one is
made, and adds checks to each call that are for interactive use.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tensorflow.lite.python.interpreter_wrapper import _pywrap_tensorflow_interpreter_wrapper as wrapper

from app.engine import dtypes
from app.engine.dtypes import Array, DType
from app.errors import Code, ServingError, invalid_argument

logger = logging.getLogger(__name__)

PRIMARY = 0
"""The subgraph that TensorFlow Serving runs."""

# The wrapper's numbers of the sets of kernels: TensorFlow Lite's own, with XNNPACK where it can, or without.
_WITH_XNNPACK, _PLAIN = 1, 3


@dataclass(frozen=True, eq=False)  # compared by identity: it is a key at each run
class Tensor:
    """A tensor of the flatbuffer.

    Attributes:
        subgraph: the subgraph it is in.
        index: its number there.
        name: as the file has it, such as `serving_default_x:0`.
        dtype: the element type.
        shape: as the file has it: 1 stands for a dimension that was unknown to the converter.
    """

    subgraph: int
    index: int
    name: str
    dtype: DType
    shape: tuple[int, ...]

    def blank(self) -> Array:
        """Zeros, or empty strings, of the declared shape."""
        if self.dtype == dtypes.STRING:
            return np.full(self.shape, b"", dtype=object)
        return np.zeros(self.shape, self.dtype.numpy)


class Interpreter:
    """One interpreter. Not thread-safe; several can run at the same time.

    Attributes:
        inputs: those of the primary subgraph.
        outputs: those of the primary subgraph.
    """

    def __init__(self, content: bytes, *, xnnpack: bool) -> None:
        """Verify the flatbuffer and make an interpreter for it.

        Args:
            content: the file. The interpreter reads it where it is: all that are made of the same
                object share it.
            xnnpack: let XNNPACK run what it can: faster, but it may refuse a model that TensorFlow
                Lite's own kernels run.

        Raises:
            ServingError: INVALID_ARGUMENT for what is no flatbuffer of a model, INTERNAL for one that no
                interpreter can be made of.
        """
        self._content = content  # the wrapper does not keep it alive
        resolver = _WITH_XNNPACK if xnnpack else _PLAIN
        try:
            self._wrapper = wrapper.CreateWrapperFromBuffer(content, resolver, [], [], False, False, 1, False)
            self.inputs = tuple(self.tensor(PRIMARY, index) for index in self._wrapper.InputIndices())
            self.outputs = tuple(self.tensor(PRIMARY, index) for index in self._wrapper.OutputIndices())
        except (ValueError, RuntimeError) as error:
            if "not a valid Flatbuffer" in str(error):
                raise invalid_argument("Cannot build FlatBufferModel from buffer.") from error
            raise ServingError(Code.INTERNAL, "Cannot build Interpreter from buffer.") from error
        self._allocated: dict[int, dict[int, tuple[int, ...]]] = {}

    def tensor(self, subgraph: int, index: int) -> Tensor:
        """Look a tensor up, before anything was run.

        Raises:
            ServingError: INTERNAL for an element type that cannot be served.
            ValueError: there is no such tensor.
        """
        # The wrapper does not check this.
        if subgraph >= self._wrapper.NumSubgraphs() or index >= self._wrapper.NumTensors(subgraph):
            raise ValueError(f"there is no tensor {index} in subgraph {subgraph}")
        at = (int(index), subgraph)
        name, kind = self._wrapper.TensorName(*at), np.dtype(self._wrapper.TensorType(*at))
        if kind.hasobject:  # handles of resources; strings are numpy.bytes_
            raise ServingError(Code.INTERNAL, f"Unknown TfLite type of tensor {name}")
        dtype = dtypes.of_array(np.empty(0, kind))
        return Tensor(subgraph, int(index), name, dtype, tuple(map(int, self._wrapper.TensorSize(*at))))

    def signatures(self) -> dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """The flatbuffer's own signatures by name: inputs and outputs by alias.

        One that cannot be served is left out: TensorFlow Serving looks at none of them.
        """
        found: dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
        try:
            definitions = self._wrapper.GetSignatureDefs()
        except ValueError as error:  # a name that is not UTF-8
            logger.warning("Signatures of the flatbuffer are left out: %s", error)
            return found
        for name, definition in definitions.items():
            try:
                subgraph = int(self._wrapper.GetSubgraphIndexFromSignature(name))
                inputs, outputs = (
                    {alias: self.tensor(subgraph, index) for alias, index in definition[side].items()}
                    for side in ("inputs", "outputs")
                )
            except (ValueError, RuntimeError, ServingError) as error:
                logger.warning("Signature %s of the flatbuffer is left out: %s", name, error)
            else:
                found[name] = (inputs, outputs)
        return found

    def allocate(self) -> None:
        """Plan the memory of the primary subgraph for the declared shapes.

        Raises:
            ServingError: INTERNAL when that fails.
        """
        self._allocate(PRIMARY, {tensor.index: tensor.shape for tensor in self.inputs})

    def run(self, feeds: Mapping[Tensor, Array], fetches: Sequence[Tensor]) -> list[Array]:
        """Run one subgraph.

        Args:
            feeds: a value for each of its inputs, of the input's element type and any shape. Inputs are
                resized to the shapes of their values.
            fetches: outputs of the same subgraph, at least one.

        Returns:
            Copies of the outputs, in the order of `fetches`. Strings are object arrays of bytes.

        Raises:
            ServingError: INTERNAL when the model cannot be run on such values.
        """
        subgraph = fetches[0].subgraph
        shapes = {tensor.index: value.shape for tensor, value in feeds.items()}
        try:
            if shapes != self._allocated.get(subgraph):
                self._reshape(subgraph, feeds, shapes)
            for tensor, value in feeds.items():
                self._wrapper.SetTensor(tensor.index, _settable(tensor, value), subgraph)
            self._wrapper.Invoke(subgraph)
            return [self._get(tensor) for tensor in fetches]
        except (ValueError, RuntimeError) as error:
            raise _failure("Failed to invoke TfLite interpreter", error) from error
        except ServingError as error:
            raise _failure(error.message, error.__cause__) from error

    def _reshape(
        self, subgraph: int, feeds: Mapping[Tensor, Array], shapes: dict[int, tuple[int, ...]]
    ) -> None:
        # If this fails half-way, the next run starts again.
        old = self._allocated.pop(subgraph, {})
        for tensor, value in feeds.items():
            if value.shape != old.get(tensor.index):
                self._resize(tensor, value)
        self._allocate(subgraph, shapes)

    def _get(self, tensor: Tensor) -> Array:
        shape = tuple(map(int, self._wrapper.TensorSize(tensor.index, tensor.subgraph)))
        if 0 in shape:  # the wrapper refuses some of these
            return np.empty(shape, tensor.dtype.numpy)
        return np.asarray(self._wrapper.GetTensor(tensor.index, tensor.subgraph))

    def _resize(self, tensor: Tensor, value: Array) -> None:
        at = (tensor.index, tensor.subgraph)
        old = math.prod(map(int, self._wrapper.TensorSize(*at))) * tensor.dtype.numpy.itemsize
        try:
            shape = np.array(value.shape, np.int32)
            self._wrapper.ResizeInputTensor(tensor.index, shape, False, tensor.subgraph)
        except (ValueError, RuntimeError, OverflowError) as error:
            message = f"Failed to resize input tensor: {tensor.name} from {old} to {value.nbytes} bytes."
            raise ServingError(Code.INTERNAL, message) from error

    def _allocate(self, subgraph: int, shapes: dict[int, tuple[int, ...]]) -> None:
        try:
            self._wrapper.AllocateTensors(subgraph)
        except (ValueError, RuntimeError) as error:
            raise ServingError(Code.INTERNAL, "Failed to allocate tensors") from error
        self._allocated[subgraph] = shapes


def _settable(tensor: Tensor, value: Array) -> Array:
    """`value` in a form that the wrapper reads correctly."""
    if tensor.dtype != dtypes.STRING or value.ndim:
        return value
    # Of an object array without dimensions it would take the pointer for the string.
    text = value.item()
    return np.ndarray((), f"S{len(text)}", text)


def _failure(message: str, cause: BaseException | None) -> ServingError:
    """TensorFlow Serving's text for the client; the interpreter's goes to the log."""
    logger.warning("%s: %s", message, " ".join(str(cause).split()))
    return ServingError(Code.INTERNAL, message)
