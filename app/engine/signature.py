"""What a signature of a SavedModel says: which tensors go in, which come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.engine import dtypes
from app.engine.dtypes import Array, DType

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a signature.

    Attributes:
        alias: the name clients use.
        tensor: the name in the graph, such as `x:0`.
        dtype: the element type.
        shape: the declared shape with -1 for unknown dimensions; None for unknown rank.
    """

    alias: str
    tensor: str
    dtype: DType
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Signature:
    """One entry of a SavedModel's signature map.

    Attributes:
        name: its key in the map.
        method_name: such as `tensorflow/serving/predict`.
        inputs: by alias.
        outputs: by alias.
        defaults: values of inputs that a request may leave out, by alias.
    """

    name: str
    method_name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    defaults: Mapping[str, Array]

    @property
    def is_callable(self) -> bool:
        """Whether it yields tensors; `__saved_model_init_op` of TF2 exports, for one, does not."""
        return bool(self.outputs) and all(spec.dtype.number for spec in self.outputs.values())


def spec_of(alias: str, tensor_info: Any) -> TensorSpec:
    """Read a `TensorInfo` proto; a sparse or composite one keeps an empty tensor name."""
    shape: tuple[int, ...] | None = None
    if tensor_info.HasField("tensor_shape") and not tensor_info.tensor_shape.unknown_rank:
        shape = tuple(dim.size for dim in tensor_info.tensor_shape.dim)
    return TensorSpec(alias, tensor_info.name, dtypes.from_number(tensor_info.dtype), shape)


def example_input(spec: TensorSpec) -> Array | None:
    """A small valid value for `spec`, to warm a signature up: zeros (or empty strings), -1 taken as 1.

    Returns:
        None where no value can be guessed: unknown rank or a type that NumPy does not have.
    """
    if spec.shape is None:
        return None
    shape = tuple(1 if size < 0 else size for size in spec.shape)
    if spec.dtype == dtypes.STRING:
        return np.full(shape, b"", dtype=object)
    if spec.dtype.numpy.hasobject:
        return None
    return np.zeros(shape, spec.dtype.numpy)
