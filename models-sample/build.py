#!/usr/bin/env python3
"""Builds the sample models that the examples, the tests and the benchmarks use.

Usage: python models-sample/build.py [--out DIR] [--force] [NAME ...]

A model that is there already is left alone. A new one is written under a temporary name beside the others and
renamed into place, so that a server which watches the directory never meets half of a model.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

STAGING = ".building-"
SEED = 20240521

IMAGE_SIZE = 224
IMAGE_CLASSES = 1000

BERT_VOCABULARY = 30522
BERT_LAYERS = 4
BERT_WIDTH = 512
BERT_HEADS = 8
BERT_WORDS = 128

TEXT_BUCKETS = 4096
TEXT_WIDTH = 16
TEXT_CLASSES = ("negative", "positive")
NEGATIVE_WORDS = (
    "awful",
    "bad",
    "boring",
    "broken",
    "hate",
    "never",
    "poor",
    "sad",
    "slow",
    "terrible",
    "worst",
)
POSITIVE_WORDS = (
    "best",
    "brilliant",
    "enjoy",
    "fast",
    "good",
    "great",
    "happy",
    "like",
    "love",
    "nice",
    "wonderful",
)


def half_plus_two(path: str) -> None:
    """Writes the model of TensorFlow Serving's own examples, a TF1 graph that computes y = x / 2 + 2."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    signatures = tf1.saved_model.signature_def_utils
    with tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        a = tf1.get_variable("a", initializer=0.5)
        b = tf1.get_variable("b", initializer=2.0)
        c = tf1.get_variable("c", initializer=3.0)
        examples = tf1.placeholder(tf.string, [None], name="tf_example")
        features = tf1.parse_example(
            examples,
            {
                "x": tf1.FixedLenFeature([1], tf.float32),
                "x2": tf1.FixedLenFeature([1], tf.float32, default_value=[0.0]),
            },
        )
        # `predict` feeds this tensor directly. A feed has to fit the shape of a placeholder but not that of a
        # computed tensor: x is declared [-1, 1], yet plain vectors work, and users of the sample rely on it.
        x = tf.identity(features["x"], name="x")
        x2 = tf.identity(features["x2"], name="x2")
        y = tf.add(a * x, b, name="y")
        y2 = tf.add(a * x, c, name="y2")
        y3 = tf.add(a * x2, c, name="y3")
        session.run(tf1.global_variables_initializer())
        builder = tf1.saved_model.Builder(path)
        builder.add_meta_graph_and_variables(
            session,
            [tf.saved_model.SERVING],
            signature_def_map={
                "serving_default": signatures.predict_signature_def({"x": x}, {"y": y}),
                "regress_x_to_y": signatures.regression_signature_def(examples, y),
                "regress_x_to_y2": signatures.regression_signature_def(examples, y2),
                "regress_x2_to_y3": signatures.regression_signature_def(examples, y3),
                "classify_x_to_y": signatures.classification_signature_def(examples, None, y),
            },
        )
        builder.save()


def _untrained(application: str) -> Any:
    """Returns a network of keras.applications with seeded random weights whose answers depend on the picture.

    Straight after random initialisation the signal dies out on its way: logits of 1e-11, so all classes tie.
    One pass over random pictures therefore sets the statistics of the batch normalisations, and the last
    layer is centred and scaled so that its logits spread like those of a trained network.
    """
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(SEED)
    make = getattr(keras.applications, application)
    model = make(weights=None, classes=IMAGE_CLASSES, classifier_activation=None)
    pictures = tf.concat(
        [
            tf.image.resize(
                tf.random.stateless_uniform([4, cells, cells, 3], [SEED, cells], -1.0, 1.0), [IMAGE_SIZE] * 2
            )
            for cells in (2, 4, 8, 16)
        ],
        axis=0,
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(pictures, training=True)
    logits = model(pictures, training=False)
    last = model.layers[-1]
    gain = 3.0 / tf.math.reduce_std(logits - tf.reduce_mean(logits, axis=0))
    last.bias.assign(-gain * tf.reduce_mean(logits, axis=0))
    last.kernel.assign(gain * last.kernel)
    return model


def _module(network: Any) -> Any:
    """Returns what tf.saved_model.save needs of a Keras model: the plain variables.

    Tracking the model itself would add a copy of the graph for every layer.
    """
    import tensorflow as tf

    module = tf.Module()
    module.weights = [variable.value for variable in network.variables]
    return module


def image_classifier(path: str) -> None:
    """Writes an untrained MobileNetV2: `serving_default` takes JPEG or PNG files, `array` takes floats."""
    import tensorflow as tf

    network = _untrained("MobileNetV2")
    names = [f"class_{number:04d}" for number in range(IMAGE_CLASSES)]

    def scores(image: Any) -> Any:
        return tf.nn.softmax(network(image * 2.0 - 1.0, training=False))

    def decode(data: Any) -> Any:
        # Without this flag a GIF would come out with a fourth dimension.
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        return tf.image.resize(tf.ensure_shape(image, [None, None, 3]), [IMAGE_SIZE] * 2) / 255.0

    def classify(image_bytes: Any) -> dict[str, Any]:
        # One at a time: the pictures of a batch differ in size until they are resized.
        images = tf.map_fn(
            decode, image_bytes, fn_output_signature=tf.TensorSpec([IMAGE_SIZE, IMAGE_SIZE, 3], tf.float32)
        )
        top = tf.math.top_k(scores(images), k=5)
        return {"scores": top.values, "classes": tf.gather(tf.constant(names), top.indices)}

    def array(image: Any) -> dict[str, Any]:
        return {"scores": scores(image)}

    signatures = {
        "serving_default": tf.function(classify, [tf.TensorSpec([None], tf.string, name="image_bytes")]),
        "array": tf.function(
            array, [tf.TensorSpec([None, IMAGE_SIZE, IMAGE_SIZE, 3], tf.float32, name="image")]
        ),
    }
    tf.saved_model.save(_module(network), path, signatures=signatures)


def resnet50(path: str) -> None:
    """Writes an untrained ResNet50: `serving_default` takes floats from 0 to 1."""
    import tensorflow as tf

    network = _untrained("ResNet50")

    def scores(image: Any) -> dict[str, Any]:
        return {"scores": tf.nn.softmax(network(image * 2.0 - 1.0, training=False))}

    image = tf.TensorSpec([None, IMAGE_SIZE, IMAGE_SIZE, 3], tf.float32, name="image")
    tf.saved_model.save(_module(network), path, signatures=tf.function(scores, [image]))


def bert_small(path: str) -> None:
    """Writes an untrained BERT encoder of 4 layers: a vector for each word and one for the text."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(SEED)
    layers = keras.layers
    words = keras.Input([BERT_WORDS], dtype="int32")
    mask = keras.Input([BERT_WORDS], dtype="int32")
    places = keras.ops.cumsum(keras.ops.ones_like(words), axis=1) - 1
    x = layers.Embedding(BERT_VOCABULARY, BERT_WIDTH)(words)
    x = x + layers.Embedding(BERT_WORDS, BERT_WIDTH)(places)
    x = layers.LayerNormalization(epsilon=1e-12)(x)
    attended = keras.ops.cast(mask, "bool")[:, None, :]
    for _ in range(BERT_LAYERS):
        attention = layers.MultiHeadAttention(BERT_HEADS, BERT_WIDTH // BERT_HEADS)
        x = layers.LayerNormalization(epsilon=1e-12)(x + attention(x, x, attention_mask=attended))
        inner = layers.Dense(4 * BERT_WIDTH, activation="gelu")(x)
        x = layers.LayerNormalization(epsilon=1e-12)(x + layers.Dense(BERT_WIDTH)(inner))
    pooled = layers.Dense(BERT_WIDTH, activation="tanh")(x[:, 0])
    network = keras.Model([words, mask], [x, pooled])

    def encode(input_word_ids: Any, input_mask: Any) -> dict[str, Any]:
        sequence, text = network([input_word_ids, input_mask], training=False)
        return {"sequence_output": sequence, "pooled_output": text}

    inputs = [
        tf.TensorSpec([None, BERT_WORDS], tf.int32, name=name) for name in ("input_word_ids", "input_mask")
    ]
    tf.saved_model.save(_module(network), path, signatures=tf.function(encode, inputs))


def text_classifier(path: str) -> None:
    """Writes a bag of hashed word embeddings that knows a few friendly and a few unfriendly words."""
    import tensorflow as tf

    def buckets(words: Any) -> Any:
        return tf.strings.to_hash_bucket_fast(words, TEXT_BUCKETS)

    # Every word moves the scores a little at random; the listed ones push firmly towards their class.
    table = tf.random.stateless_normal([TEXT_BUCKETS, TEXT_WIDTH], [SEED, 0], stddev=0.1)
    projection = tf.random.stateless_normal([TEXT_WIDTH, len(TEXT_CLASSES)], [SEED, 1])
    for label, words in enumerate((NEGATIVE_WORDS, POSITIVE_WORDS)):
        push = 0.25 * (projection[:, label] - projection[:, 1 - label])
        rows = tf.repeat(push[tf.newaxis], len(words), axis=0)
        table = tf.tensor_scatter_nd_update(table, buckets(tf.constant(words))[:, tf.newaxis], rows)

    module = tf.Module()
    module.embedding = tf.Variable(table, name="embedding")
    module.projection = tf.Variable(projection, name="projection")

    def classify(text: Any) -> dict[str, Any]:
        words = tf.strings.split(tf.strings.regex_replace(tf.strings.lower(text), r"[^\pL\pN]+", " "))
        vectors = tf.ragged.map_flat_values(tf.gather, module.embedding, buckets(words))
        # Not reduce_mean, which answers NaN for a text without words.
        count = tf.cast(words.row_lengths(), tf.float32)[:, tf.newaxis]
        mean = tf.math.divide_no_nan(tf.reduce_sum(vectors, axis=1), count)
        mean = tf.ensure_shape(mean, [None, TEXT_WIDTH])
        top = tf.math.top_k(tf.nn.softmax(mean @ module.projection), k=len(TEXT_CLASSES))
        return {"scores": top.values, "classes": tf.gather(tf.constant(TEXT_CLASSES), top.indices)}

    signature = tf.function(classify, [tf.TensorSpec([None], tf.string, name="text")])
    tf.saved_model.save(module, path, signatures={"serving_default": signature})


MODELS: dict[str, tuple[str, Callable[[str], None]]] = {
    # The leading zeros are those of TensorFlow Serving's sample: the server has to read them as version 123.
    "half_plus_two": ("00000123", half_plus_two),
    "image_classifier": ("1", image_classifier),
    "text_classifier": ("1", text_classifier),
    # For the benchmark of models: 100 MB and 120 MB.
    "resnet50": ("1", resnet50),
    "bert_small": ("1", bert_small),
}


def build(out: Path, name: str, force: bool = False) -> bool:
    """Builds one model below `out` if it is missing (or `force` is set) and says whether it did."""
    version, write = MODELS[name]
    target = out / name / version
    if target.exists() and not force:
        return False
    staging = out / f"{STAGING}{name}"
    replaced = out / f"{STAGING}{name}-replaced"
    try:
        write(str(staging))
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            target.rename(replaced)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Builds the sample models that are missing.")
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"one of {', '.join(MODELS)}; default: all")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parent,
        metavar="DIR",
        help="where the models go; default: the directory of this script",
    )
    parser.add_argument("--force", action="store_true", help="build anew what exists already")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in MODELS:
            parser.error(f"no model is called {name!r}; there are {', '.join(MODELS)}")

    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob(f"{STAGING}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for name in options.names or MODELS:
        label = f"{name}/{MODELS[name][0]}"
        start = time.monotonic()
        done = build(out, name, options.force)
        print(
            f"{label}: built in {time.monotonic() - start:.1f} s" if done else f"{label}: exists, skipped",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    # Quiet, and (without oneDNN's kernels) nearly the same weights on every kind of CPU. Set here and not in
    # main, because the tests call that in a process whose TensorFlow is to stay as it is.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.exit(main())
