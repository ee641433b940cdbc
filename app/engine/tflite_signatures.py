"""The signatures of a TensorFlow Lite model, as TensorFlow Serving finds or makes them."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from flatbuffers import flexbuffers
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.lite.python import schema_py_generated as schema

from app.engine.tflite_interpreter import Tensor
from app.errors import Code, ServingError, invalid_argument

logger = logging.getLogger(__name__)

PREDICT = "tensorflow/serving/predict"

_METADATA = b"signature_defs_metadata"


def stored(content: bytes) -> dict[str, Any]:
    """Read the signatures in the metadata of a model: SignatureDefs by name.

    They lie, serialised, in a FlexBuffer map. Nearly no converter writes it.

    Args:
        content: the file, which has to be verified.

    Raises:
        ServingError: INVALID_ARGUMENT if they cannot be read.
    """
    model = schema.Model.GetRootAs(content)
    for number in range(model.MetadataLength()):
        metadata = model.Metadata(number)
        if metadata.Name() == _METADATA:
            buffer = metadata.Buffer()
            if buffer >= model.BuffersLength() or model.Buffers(buffer).DataIsNone():
                raise _invalid("Error reading signature def map: it is empty")
            return parse_map(model.Buffers(buffer).DataAsNumpy().tobytes())
    return {}


def parse_map(data: bytes) -> dict[str, Any]:
    """SignatureDefs by name from a FlexBuffer map of their serialised form.

    Raises:
        ServingError: INVALID_ARGUMENT for anything else.
    """
    try:
        entries = flexbuffers.GetRoot(data).AsMap
        return {
            key.AsKey: meta_graph_pb2.SignatureDef.FromString(value.AsStringBytes)
            for key, value in zip(entries.Keys, entries.Values, strict=True)
        }
    except DecodeError:
        raise _invalid("Cannot parse signature def found in flatbuffer.") from None
    # The reader checks nothing: damage shows as whatever it runs into.
    except (struct.error, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _invalid(f"Error reading signature def map: {error}") from None


def fixed(
    signatures: Mapping[str, Any], inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Check that stored signatures name tensors of the model; a name may lack the file's `:0`, or have it.

    Args:
        signatures: SignatureDefs by name.
        inputs: those of the model, by name.
        outputs: those of the model, by name.

    Returns:
        The signatures with the names of the file.

    Raises:
        ServingError: INTERNAL for a tensor that the model does not have.
    """
    result = {}
    for key, proto in signatures.items():
        result[key] = signature = meta_graph_pb2.SignatureDef()
        signature.CopyFrom(proto)
        for side, infos, known in (
            ("input", signature.inputs, inputs),
            ("output", signature.outputs, outputs),
        ):
            for alias, info in infos.items():
                info.name = _known(info.name, known, f"Signature {side} {alias}")
    return result


def generated(inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> Any:
    """A SignatureDef whose aliases are the names of the tensors without what follows a colon.

    Of tensors that differ in that only, the last by name is taken.
    """
    logger.warning("No signature def found in TFLite model. Generating one.")
    sides = (
        {_bare(tensor.name): (tensor.name, tensor) for tensor in _by_name(side)} for side in (inputs, outputs)
    )
    return predict_signature(*sides)


def predict_signature(
    inputs: Mapping[str, tuple[str, Tensor]], outputs: Mapping[str, tuple[str, Tensor]]
) -> Any:
    """A SignatureDef for predict requests.

    Args:
        inputs: by alias, the name to give to the tensor and the tensor.
        outputs: the same.
    """
    signature = meta_graph_pb2.SignatureDef(method_name=PREDICT)
    for infos, tensors in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for alias, (name, tensor) in tensors.items():
            info = infos[alias]
            info.name, info.dtype = name, tensor.dtype.number
            info.tensor_shape.SetInParent()
            for size in tensor.shape:
                info.tensor_shape.dim.add(size=size)
    return signature


def _by_name(tensors: Iterable[Tensor]) -> list[Tensor]:
    return sorted(tensors, key=lambda tensor: tensor.name.encode())


def _bare(name: str) -> str:
    return name.partition(":")[0]


def _known(name: str, known: Mapping[str, Tensor], what: str) -> str:
    if name in known:
        return name
    if _bare(name) in known:
        return _bare(name)
    raise ServingError(Code.INTERNAL, f"Unknown tensor '{name}'.\n\t{what} references an unknown tensor")


def _invalid(reason: str) -> ServingError:
    return invalid_argument(f"Invalid SignatureDefs found in TfLite model: {reason}")
