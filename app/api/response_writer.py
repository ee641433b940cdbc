"""PredictResponses written as bytes: what does not depend on the numbers is written once.

An output's name, type and shape stand before its numbers, which are the array's own memory for most types.
The bytes are those that protobuf would write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorflow.core.framework import tensor_pb2

from app.api.tensor_proto import RAW_FIELDS, field_of, from_array, packed_tag, varint
from app.engine.dtypes import Array
from app.engine.signature import TensorSpec

# Tags of what is written here: lengths follow.
_OUTPUTS, _KEY, _VALUE = b"\x0a", b"\x0a", b"\x12"
_HEADS_KEPT = 64


class ResponseWriter:
    """Writes the answers for one set of outputs."""

    def __init__(self, spec: bytes, outputs: Sequence[TensorSpec], *, as_content: bool) -> None:
        """Write these outputs, in this order.

        Args:
            spec: a serialized PredictResponse with nothing but its model spec.
            outputs: what is written.
            as_content: put the elements into `tensor_content` instead of the type's field.
        """
        self._spec = spec
        self._outputs = [_Output(output, as_content=as_content) for output in outputs]

    def write(self, arrays: Sequence[Array]) -> bytes:
        """The answer with these values, one for each output."""
        parts: list[bytes] = []
        for output, array in zip(self._outputs, arrays, strict=True):
            head = output.heads.get(array.shape) if array.dtype is output.dtype else None
            parts += output.parts(array) if head is None else (head, array.tobytes())
        parts.append(self._spec)
        return b"".join(parts)


class _Output:
    """One entry of the map of outputs.

    Attributes:
        dtype: of arrays whose memory is what is written; one that is only equal takes longer.
        heads: what stands before it, by their shapes, as far as they are known.
    """

    def __init__(self, spec: TensorSpec, *, as_content: bool) -> None:
        alias = spec.alias.encode()
        self._key = _KEY + varint(len(alias)) + alias
        self._dtype = spec.dtype
        self.dtype = spec.dtype.numpy
        self._as_content = as_content
        field = "tensor_content" if as_content else field_of(spec.dtype)
        # Whether the numbers on the wire are the array's memory.
        self._raw = field in RAW_FIELDS or (as_content and not spec.dtype.numpy.hasobject)
        self._tag = packed_tag(field)
        self.heads: dict[tuple[int, ...], bytes] = {}

    def parts(self, array: Array) -> tuple[bytes, bytes]:
        """What stands before the numbers of an array, and the numbers."""
        if not self._raw or array.dtype != self._dtype.numpy:
            tensor = bytes(from_array(array, self._dtype, as_content=self._as_content).SerializeToString())
            return self._head(len(tensor)), tensor
        shape = array.shape
        head = self._raw_head(shape, array.nbytes)
        if len(self.heads) < _HEADS_KEPT:
            self.heads[shape] = head
        return head, array.tobytes()

    def _head(self, size: int) -> bytes:
        """What stands before a tensor of so many bytes."""
        value = _VALUE + varint(size)
        return _OUTPUTS + varint(len(self._key) + len(value) + size) + self._key + value

    def _raw_head(self, shape: tuple[int, ...], size: int) -> bytes:
        described: Any = tensor_pb2.TensorProto(dtype=self._dtype.number)
        described.tensor_shape.SetInParent()
        for length in shape:
            described.tensor_shape.dim.add(size=length)
        before = bytes(described.SerializeToString())
        if size:  # an empty field is not written
            before += self._tag + varint(size)
        return self._head(len(before) + size) + before
