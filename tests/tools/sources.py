"""Models as users have them before they are exported."""

from __future__ import annotations

import warnings
from pathlib import Path

from tests.support.models import tensorflow


def save_keras(path: Path) -> Path:
    """y = x @ 2 for x float [None, 3], in the format that the name's ending says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras

        dense = keras.layers.Dense(2, use_bias=False, kernel_initializer=keras.initializers.Constant(2.0))
        keras.Sequential([keras.Input((3,), name="x"), dense]).save(path)
    return path


def save_checkpoints(directory: Path, *constants: float) -> Path:
    """TF1 checkpoints `m-1`, `m-2`… of y = x / 2 + constant, with a variable that y does not need."""
    tf1 = tensorflow().compat.v1
    with warnings.catch_warnings(), tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        warnings.simplefilter("ignore")
        x = tf1.placeholder("float32", [None], name="in/x")
        constant = tf1.get_variable("constant", initializer=0.0)
        tf1.get_variable("momentum", initializer=[0.0] * 1000)
        tf1.add(x * 0.5, constant, name="out/y")
        session.run(tf1.global_variables_initializer())
        saver = tf1.train.Saver()
        for step, value in enumerate(constants, 1):
            session.run(constant.assign(value))
            saver.save(session, str(directory / "m"), global_step=step)
    return directory


def save_frozen(path: Path, constant: float) -> Path:
    """y = x / 2 + constant without variables."""
    tf1 = tensorflow().compat.v1
    with tf1.Graph().as_default() as graph:
        x = tf1.placeholder("float32", [None], name="x")
        tf1.add(x * 0.5, constant, name="y")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path
