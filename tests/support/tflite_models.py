"""Small TensorFlow Lite models that tests serve. Each `save_` function writes one `model.tflite`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.models import save, tensorflow

PREDICT = "tensorflow/serving/predict"


def _save(path: Path, functions: Mapping[str, Any], variables: Any = None) -> Path:
    """Convert `functions`, signatures by name, and write them into the version directory `path`."""
    tf = tensorflow()
    module = tf.Module()
    module.functions, module.variables_of_functions = list(functions.values()), variables
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = save(module, Path(directory) / "1", functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved), signature_keys=list(functions))
        content = converter.convert()
    path.mkdir(parents=True, exist_ok=True)
    # Renamed into place, as a careful user publishes.
    building = path / ".model.tflite"
    building.write_bytes(content)
    building.rename(path / "model.tflite")
    return path


def _function(function: Callable[..., Any], **inputs: tuple[list[int | None], str]) -> Any:
    tf = tensorflow()
    specs = [tf.TensorSpec(shape, tf.as_dtype(name), name=alias) for alias, (shape, name) in inputs.items()]
    return tf.function(function, input_signature=specs)


def save_half_plus(path: Path, constant: float = 2.0, signature: str = "serving_default") -> Path:
    """y = x / 2 + constant; x is float [None]. Tensors: `SIGNATURE_x:0`, `PartitionedCall:0`."""
    return _save(path, {signature: _function(lambda x: {"y": x * 0.5 + constant}, x=([None], "float32"))})


def save_two_inputs(path: Path) -> Path:
    """`serving_default`: a float [None, 2] and b int64 [None] to sum [None, 2] and twice [None].

    `triple`, in a subgraph of its own: a to t, three times a. Tensors: `serving_default_a:0`,
    `serving_default_b:0`, `PartitionedCall:0` (sum) and `PartitionedCall:1` (twice).
    """
    tf = tensorflow()

    def both(a: Any, b: Any) -> Any:
        return {"sum": a + tf.cast(b, tf.float32)[:, None], "twice": b * 2}

    return _save(
        path,
        {
            "serving_default": _function(both, a=([None, 2], "float32"), b=([None], "int64")),
            "triple": _function(lambda a: {"t": a * 3}, a=([None, 2], "float32")),
        },
    )


def save_pick(path: Path) -> Path:
    """Picks strings: words string [None] and indices int32 [None] to picked string [None]."""
    tf = tensorflow()
    pick = _function(
        lambda words, indices: {"picked": tf.gather(words, indices)},
        words=([None], "string"),
        indices=([None], "int32"),
    )
    return _save(path, {"serving_default": pick})


def save_column(path: Path) -> Path:
    """Strings of any shape as a column, [N, 1]."""
    tf = tensorflow()
    column = _function(lambda words: {"column": tf.reshape(words, [-1, 1])}, words=([None], "string"))
    return _save(path, {"serving_default": column})


def save_weigh(path: Path) -> Path:
    """y = x[:, 0] + 2 x[:, 1], float [None, 1]; x is float [None, 2], and no other width will do."""
    tf = tensorflow()
    weigh = _function(lambda x: {"y": x @ tf.constant([[1.0], [2.0]])}, x=([None, 2], "float32"))
    return _save(path, {"serving_default": weigh})


def save_where(path: Path) -> Path:
    """The indices, int64 [N, 1], of the positive elements of x, float [None]."""
    tf = tensorflow()
    return _save(
        path, {"serving_default": _function(lambda x: {"y": tf.where(x > 0)}, x=([None], "float32"))}
    )


def save_identity(path: Path, element_type: int) -> Path:
    """x of shape [None] and a `TensorType` comes back: one tensor, `serving_default_x:0`, no operation."""
    tf = tensorflow()
    _save(path, {"serving_default": _function(lambda x: {"y": tf.identity(x)}, x=([None], "float32"))})

    def change(model: Any) -> None:
        (tensor,) = model.subgraphs[0].tensors
        tensor.type = element_type

    return edit(path, change)


def save_busy(path: Path) -> Path:
    """x int64 [] to y int64 []: counts to x, some 100 ns a step, so that a run can take long."""
    tf = tensorflow()

    def count(x: Any) -> Any:
        (steps,) = tf.while_loop(lambda i: i < x, lambda i: (i + 1,), (tf.constant(0, tf.int64),))
        return {"y": steps}

    return _save(path, {"serving_default": _function(count, x=([], "int64"))})


def save_rank_7(path: Path) -> Path:
    """The sum of x, float [1, 3, 2], as [1, 1, 1, 1, 1, 1, 1]: XNNPACK takes it and then fails to prepare."""
    tf = tensorflow()
    weights = tf.Variable([1.0] * 6)

    def total(x: Any) -> Any:
        product = tf.tensordot(tf.reshape(x, (1, 1, 1, 6)), tf.reshape(weights, (6, 1, 1, 1)), axes=1)
        return {"y": tf.expand_dims(product, -1)}

    return _save(path, {"serving_default": _function(total, x=([1, 3, 2], "float32"))}, weights)


def edit(path: Path, change: Callable[[Any], None]) -> Path:
    """Change the model in the version directory `path`, a `ModelT`, in place."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    file = path / "model.tflite"
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(file.read_bytes()))
    change(model)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    file.write_bytes(bytes(builder.Output()))
    return path


class _Raw:
    """Bytes for a builder that wants text to encode."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def encode(self, _: str) -> bytes:
        return self._content


def serialised_map(signatures: Mapping[str, bytes]) -> bytes:
    """A FlexBuffer map of serialised SignatureDefs by name."""
    from flatbuffers import flexbuffers

    builder = flexbuffers.Builder()
    with builder.Map():
        for name, content in signatures.items():
            builder.Key(name)
            builder.String(_Raw(content))
    return bytes(builder.Finish())


def store_signatures(path: Path, signatures: Mapping[str, bytes]) -> Path:
    """Put serialised SignatureDefs by name into the metadata of the model in `path`."""
    return store_metadata(path, serialised_map(signatures))


def store_metadata(path: Path, content: bytes) -> Path:
    """Put `content` where the metadata of the model in `path` has its signatures."""
    import numpy as np
    from tensorflow.lite.python import schema_py_generated as schema

    def change(model: Any) -> None:
        entry, buffer = schema.MetadataT(), schema.BufferT()
        entry.name, entry.buffer = "signature_defs_metadata", len(model.buffers)
        buffer.data = np.frombuffer(content, np.uint8)
        model.metadata.append(entry)
        model.buffers.append(buffer)

    return edit(path, change)


def signature_def(
    inputs: Mapping[str, tuple[str, int, list[int]]], outputs: Mapping[str, tuple[str, int, list[int]]]
) -> bytes:
    """A serialised SignatureDef for predict; by alias, a tensor's name, DataType and shape."""
    from tensorflow.core.protobuf import meta_graph_pb2

    signature = meta_graph_pb2.SignatureDef(method_name=PREDICT)
    for infos, tensors in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for alias, (name, dtype, shape) in tensors.items():
            infos[alias].name, infos[alias].dtype = name, dtype
            for size in shape:
                infos[alias].tensor_shape.dim.add(size=size)
    return bytes(signature.SerializeToString())
