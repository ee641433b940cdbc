"""`--xla_cpu_compilation_enabled`: XLA where it wins, and the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import StartServer
from tests.support import models

FLAGS = ["--xla_cpu_compilation_enabled"]
SIZE = 256


def save_network(path: Path) -> Path:
    """y = mean of many cheap steps on x weights, of which XLA makes one: x is [None, 256]."""
    tf = models.tensorflow()
    weights = np.random.default_rng(3).normal(size=[SIZE, SIZE]).astype(np.float32) / SIZE
    module = tf.Module()
    module.weights = tf.Variable(weights)

    def network(x: Any) -> Any:
        y = tf.matmul(x, module.weights)
        for _ in range(600):
            y = tf.maximum(y * 0.99 + 0.01, y * 0.5)
        return {"y": tf.reduce_mean(y, 1)}

    spec = tf.TensorSpec([None, SIZE], tf.float32, name="x")
    module.network = tf.function(network, input_signature=[spec], autograph=False)
    return models.save(module, path, module.network)


@pytest.mark.parametrize("own_flags", ["", "--tf_xla_min_cluster_size=3"])
def test_a_model_that_gains_is_compiled(start_server: StartServer, tmp_path: Path, own_flags: str) -> None:
    save_network(tmp_path / "model" / "1")
    environment = {"TF_XLA_FLAGS": own_flags} if own_flags else {}
    compiled = start_server(tmp_path / "model", flags=FLAGS, environment=environment).wait_ready()
    plain = start_server(tmp_path / "model").wait_ready()
    assert "XLA is used; times the speed: serving_default at batch 1" in compiled.log
    assert "XLA" not in plain.log
    for rows in (1, 3, 3, 3):  # sizes that are new to it, too
        body = np.random.default_rng(rows).random([rows, SIZE]).round(3).tolist()
        answers = [server.predict(body).json()["predictions"] for server in (compiled, plain)]
        np.testing.assert_allclose(answers[0], answers[1], rtol=1e-4)


def test_a_small_model_is_left_alone(start_server: StartServer, tmp_path: Path) -> None:
    models.save_half_plus(tmp_path / "model" / "1")
    server = start_server(tmp_path / "model", flags=FLAGS).wait_ready()
    assert server.predict([1.0]).json() == {"predictions": [2.5]}
    assert "XLA" not in server.log
