"""The SavedModels that the recorded cases were asked of.

Names of models, versions, signatures, inputs, outputs and graph nodes are part of the recorded answers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.models import tensorflow

PREDICT, CLASSIFY, REGRESS = (f"tensorflow/serving/{method}" for method in ("predict", "classify", "regress"))

ELEMENT_TYPES = (
    *("float32", "float64", "float16", "bfloat16"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bool", "string", "complex64"),
)

Shape = Sequence[int | None] | None


class Signature(NamedTuple):
    """What a TF2 signature computes, and its inputs in order: name to element type and shape."""

    compute: Callable[..., Mapping[str, Any]]
    inputs: Mapping[str, tuple[str, Shape]]


def export(path: Path, signatures: Mapping[str, Signature], module: Any = None) -> None:
    """Write a TF2 SavedModel with `signatures`, in their order, as the functions of `module`."""
    tf = tensorflow()
    module = tf.Module() if module is None else module
    functions = {}
    for name, (compute, inputs) in signatures.items():
        specs = [tf.TensorSpec(shape, tf.as_dtype(dtype), key) for key, (dtype, shape) in inputs.items()]
        functions[name] = tf.function(compute, input_signature=specs)
        setattr(module, f"compute_{name}", functions[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tf.saved_model.save(module, str(path), signatures=functions)


def export_graph(path: Path, define: Callable[[Any], Mapping[str, Any]]) -> None:
    """Write a TF1 SavedModel of the graph that `define` fills; it returns the signatures."""
    tf1 = tensorflow().compat.v1
    with warnings.catch_warnings(), tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        warnings.simplefilter("ignore")
        signatures = define(tf1)
        session.run(tf1.global_variables_initializer())
        builder = tf1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()


def signature_def(tf1: Any, method: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
    """A SignatureDef from tensors, with nothing checked."""
    info = tf1.saved_model.build_tensor_info
    return tf1.saved_model.build_signature_def(
        {name: info(tensor) for name, tensor in inputs.items()},
        {name: info(tensor) for name, tensor in outputs.items()},
        method,
    )


def build_dtypes(path: Path) -> None:
    """`id_TYPE` gives a vector of each element type back."""
    tf = tensorflow()
    signatures = {
        f"id_{dtype}": Signature(lambda x: {"y": tf.identity(x)}, {"x": (dtype, [None])})
        for dtype in ELEMENT_TYPES
    }
    signatures["serving_default"] = Signature(lambda x: {"y": x * 1.0}, {"x": ("float32", [None])})
    export(path, signatures)


def build_multi(path: Path) -> None:
    """Two inputs, and two outputs or one."""
    tf = tensorflow()

    def add_columns(a: Any, b: Any) -> dict[str, Any]:
        return {"sum": a + tf.cast(b, tf.float32)[:, None], "twice": b * 2}

    export(
        path,
        {
            "serving_default": Signature(add_columns, {"a": ("float32", [None, 2]), "b": ("int64", [None])}),
            "one_output": Signature(
                lambda a, b: {"only": a + b}, {"a": ("float32", [None]), "b": ("float32", [None])}
            ),
        },
    )


def build_strings(path: Path) -> None:
    """Strings and bytes in and out; `to_number` fails on words."""
    strings = tensorflow().strings
    vector = ("string", [None])
    export(
        path,
        {
            "serving_default": Signature(
                lambda image_bytes: {"length": strings.length(image_bytes), "echo_bytes": image_bytes},
                {"image_bytes": vector},
            ),
            "upper": Signature(lambda s: {"text": strings.upper(s)}, {"s": vector}),
            "upper_bytes": Signature(lambda s: {"text_bytes": strings.upper(s)}, {"s": vector}),
            "to_number": Signature(lambda s: {"num": strings.to_number(s)}, {"s": vector}),
        },
    )


def build_shapes(path: Path) -> None:
    """Inputs of every kind of shape, and outputs whose first dimension is not the batch."""
    tf = tensorflow()

    def of(shape: Shape, output: Callable[[Any], Any], dtype: str = "float32") -> Signature:
        return Signature(lambda x: {"y": output(x)}, {"x": (dtype, shape)})

    export(
        path,
        {
            "serving_default": of(None, tf.identity),
            "mat": of([None, 2, 3], lambda x: x + 1.0),
            "scalar_out": of([None], tf.reduce_sum),
            "mixed_out": Signature(lambda x: {"y": x, "total": tf.reduce_sum(x)}, {"x": ("float32", [None])}),
            "scalar_in": of([], lambda x: x * 2.0),
            "fixed": of([3], lambda x: x * 2.0),
            "short": of([None], lambda x: x[:1]),
            "ints": of([None, None], lambda x: x * 2, "int32"),
        },
    )


def build_imgsum(path: Path) -> None:
    """An image to ten times the mean of every 16th pixel's first channel."""
    tf = tensorflow()

    def mean(x: Any) -> dict[str, Any]:
        sampled = x[:, ::16, ::16, :1]
        return {"y": tf.tile(tf.reduce_mean(sampled, axis=[1, 2]), [1, 10])}

    export(path, {"serving_default": Signature(mean, {"x": ("float32", [None, 224, 224, 3])})})


def build_plus(path: Path, constant: int) -> None:
    """y = x / 2 + constant, which is a variable."""
    tf = tensorflow()
    module = tf.Module()
    module.constant = tf.Variable(float(constant))
    signature = Signature(lambda x: {"y": x * 0.5 + module.constant}, {"x": ("float32", [None])})
    export(path, {"serving_default": signature}, module)


def build_half_plus_two(path: Path) -> None:
    """The classic sample: halves plus two or three, to predict, to regress and to classify."""
    tf = tensorflow()

    def define(tf1: Any) -> Mapping[str, Any]:
        half, two, three = (
            tf1.get_variable(name, initializer=value)
            for name, value in (("half", 0.5), ("two", 2.0), ("three", 3.0))
        )
        examples = tf1.placeholder(tf.string, [None], name="tf_example")
        features = {
            "x": tf1.FixedLenFeature([1], tf.float32),
            "x2": tf1.FixedLenFeature([1], tf.float32, default_value=[0.0]),
        }
        parsed = tf1.parse_example(examples, features)
        x = tf.identity(parsed["x"], name="x")
        y = tf.add(half * x, two, name="y")
        y2 = tf.add(half * x, three, name="y2")
        x2 = tf.identity(parsed["x2"], name="x2")
        y3 = tf.add(half * x2, three, name="y3")

        def from_examples(method: str, output: str, tensor: Any) -> Any:
            return signature_def(tf1, method, {"inputs": examples}, {output: tensor})

        return {
            "serving_default": signature_def(tf1, PREDICT, {"x": x}, {"y": y}),
            "regress_x_to_y": from_examples(REGRESS, "outputs", y),
            "regress_x_to_y2": from_examples(REGRESS, "outputs", y2),
            "regress_x2_to_y3": from_examples(REGRESS, "outputs", y3),
            "classify_x_to_y": from_examples(CLASSIFY, "scores", y),
        }

    export_graph(path, define)


def build_clsreg(path: Path) -> None:
    """Signatures to classify and to regress, well-formed and not, on examples with two numbers."""
    tf = tensorflow()

    def define(tf1: Any) -> Mapping[str, Any]:
        examples = tf1.placeholder(tf.string, [None], name="examples")
        features = {
            "x": tf1.FixedLenFeature([2], tf.float32),
            "name": tf1.FixedLenFeature([1], tf.string, default_value=["none"]),
            "n": tf1.FixedLenFeature([1], tf.int64, default_value=[0]),
        }
        parsed = tf1.parse_example(examples, features)
        x = parsed["x"]
        first, second, extra = x[:, 0], x[:, 1], tf.cast(parsed["n"][:, 0], tf.float32)
        scores = tf.stack([first, second, first + second + extra], axis=1, name="scores")
        prefixes = tf.tile(parsed["name"], [1, 3])
        suffixes = tf.tile(tf.constant([["/a", "/b", "/c"]]), [tf.shape(x)[0], 1])
        classes = tf.strings.join([prefixes, suffixes], name="classes")
        total = tf.reduce_sum(x, axis=1, name="reg")

        def from_examples(method: str, **outputs: Any) -> Any:
            return signature_def(tf1, method, {"inputs": examples}, outputs)

        return {
            "serving_default": from_examples(CLASSIFY, classes=classes, scores=scores),
            "classes_only": from_examples(CLASSIFY, classes=classes),
            "scores_only": from_examples(CLASSIFY, scores=scores),
            "classify_no_outputs": from_examples(CLASSIFY, other=scores),
            "regress": from_examples(REGRESS, outputs=total),
            "regress_2d": from_examples(REGRESS, outputs=tf.reduce_sum(x, axis=1, keepdims=True)),
            "regress_bad": from_examples(REGRESS, outputs=tf.identity(x)),
            "predict_form": signature_def(
                tf1, PREDICT, {"examples": examples}, {"scores": scores, "classes": classes}
            ),
        }

    export_graph(path, define)


def build(out: Path) -> None:
    """Write every model below `out`, which holds none of them yet."""
    build_half_plus_two(out / "half_plus_two" / "00000123")
    build_dtypes(out / "dtypes" / "1")
    build_multi(out / "multi" / "7")
    build_strings(out / "strings" / "00000003")
    build_shapes(out / "shapes" / "1")
    build_clsreg(out / "clsreg" / "1")
    build_imgsum(out / "imgsum" / "1")
    for version in (1, 2, 3):
        build_plus(out / "versioned" / str(version), version + 1)
