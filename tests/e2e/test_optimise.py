"""A model that is made fast at load answers as the one that is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import StartServer
from tests.support import models


def save_network(path: Path) -> Path:
    """y = mean(relu(batch_norm(conv(x)))): x is float [None, 16, 16, 128]."""
    tf = models.tensorflow()
    random = np.random.default_rng(3)
    module = tf.Module()
    module.filters = tf.Variable(random.normal(size=[3, 3, 128, 128]).astype(np.float32) / 30)
    module.norm = [tf.Variable(random.random([128]).astype(np.float32) + 0.5) for _ in range(4)]

    def network(x: Any) -> Any:
        y = tf.nn.conv2d(x, module.filters, 1, "SAME")
        y = tf.compat.v1.nn.fused_batch_norm(y, *module.norm, is_training=False)[0]
        return {"y": tf.reduce_mean(tf.nn.relu(y), [1, 2])}

    spec = tf.TensorSpec([None, 16, 16, 128], tf.float32, name="x")
    module.network = tf.function(network, input_signature=[spec], autograph=False)
    return models.save(module, path, module.network)


def test_the_same_answers_with_and_without(start_server: StartServer, tmp_path: Path) -> None:
    save_network(tmp_path / "model" / "1")
    rows = np.random.default_rng(4).random([2, 16, 16, 128]).round(3).tolist()
    on = "--enable_model_optimization"
    flags: tuple[list[str], ...] = ([on], [], [on, "--mixed_precision=float16"])
    servers = [start_server(tmp_path / "model", flags=flag).wait_ready() for flag in flags]
    answers = [server.predict(rows).json()["predictions"] for server in servers]
    for answer in answers:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-3, atol=1e-4)
    line = "float16 auto mixed precision is not supported. Valid option: bfloat16"
    assert [line in server.log for server in servers] == [False, False, True]
    decided = [
        "Model made fast: " in server.log or "Model kept as it is: " in server.log for server in servers
    ]
    assert decided == [True, False, True]
