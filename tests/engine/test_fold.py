from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from app.engine.flat_graph import FlatGraph
from app.engine.fold import fold_normalisation
from app.engine.static_values import StaticValues

RANDOM = np.random.default_rng(8)
CHANNELS = 4


def vector(size: int = CHANNELS) -> Any:
    return tf.constant(RANDOM.random(size).astype(np.float32) + 0.5)


def conv(x: Any) -> Any:
    return tf.nn.conv2d(x, tf.constant(RANDOM.random([3, 3, 2, CHANNELS]).astype(np.float32)), 1, "SAME")


def depthwise(x: Any) -> Any:
    filters = tf.constant(RANDOM.random([3, 3, 2, 2]).astype(np.float32))
    return tf.nn.depthwise_conv2d(x, filters, [1, 1, 1, 1], "SAME")


def batch_norm(y: Any, *, training: bool = False) -> Any:
    statistics = () if training else (vector(), vector())
    return tf.compat.v1.nn.fused_batch_norm(y, vector(), vector(), *statistics, is_training=training)[0]


def used_twice(x: Any) -> Any:
    y = conv(x)
    return y * vector() + tf.nn.relu(y)


def folded(make: Any, fetch: str = "y") -> int:
    """How many were folded; the answers must stay equal, and no normalisation be left if any was."""
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 5, 5, 2], name="x")
        tf.identity(make(x), name="y")
    flat = FlatGraph(graph.as_graph_def(), ["x:0", f"{fetch}:0"])
    count = fold_normalisation(flat, lambda key: StaticValues(flat.node, {})(key).shape)
    flat.prune()
    value = RANDOM.random([2, 5, 5, 2]).astype(np.float32)
    answers = []
    for graph_def in (graph.as_graph_def(), flat.graph_def):
        with tf.Graph().as_default() as made, tf.compat.v1.Session(graph=made) as session:
            tf.import_graph_def(graph_def, name="")
            answers.append(session.run(f"{fetch}:0", {"x:0": value}))
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-4)
    return count


@pytest.mark.parametrize("convolution", [conv, depthwise])
@pytest.mark.parametrize(
    "normalise",
    [
        batch_norm,
        lambda y: tf.nn.bias_add(y, vector()) * vector(),
        lambda y: vector() + y * tf.reshape(vector(), [1, 1, 1, CHANNELS]),
        lambda y: batch_norm(tf.nn.bias_add(y, vector())) * vector() + vector(),
        lambda y: tf.identity(batch_norm(tf.identity(y))),
    ],
    ids=["batch_norm", "bias_mul", "mul_add", "long", "identities"],
)
def test_scales_and_shifts_of_channels_are_folded(convolution: Any, normalise: Any) -> None:
    assert folded(lambda x: tf.nn.relu(normalise(convolution(x)))) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda x: tf.nn.relu(tf.nn.bias_add(conv(x), vector())),  # there is nothing to gain
        lambda x: batch_norm(conv(x), training=True),
        lambda x: conv(x) * tf.reduce_mean(x, [1, 2, 3], keepdims=True),
        lambda x: conv(x) * tf.constant(RANDOM.random([5, CHANNELS]).astype(np.float32)) + vector(),
        lambda x: tf.cast(conv(x), tf.float64) * 2,
        used_twice,
        lambda x: conv(x) * vector(),  # a scale without shift needs no other op
    ],
    ids=["bias", "training", "dynamic", "not_channels", "cast", "shared", "scale"],
)
def test_what_is_left_alone(make: Any) -> None:
    assert folded(make) == 0


def test_a_tensor_that_clients_fetch_stays() -> None:
    assert folded(lambda x: tf.nn.relu(batch_norm(tf.identity(conv(x), name="inner"))), "inner") == 0
