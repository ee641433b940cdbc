"""A model that is made fast at load answers as the one that is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import models
from tests.support.process import ServerProcess


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


OFF = "--enable_model_optimization=false"
DECISIONS = ("Model made fast: ", "Model kept as it is: ")
# However busy the machine is, there is time for all steps.
NO_HURRY = "--model_optimization_load_factor=1000"
WAYS: dict[str, list[str]] = {
    "default": [NO_HURRY],
    "off": [OFF],
    "float16": [NO_HURRY, "--mixed_precision=float16"],
    "bfloat16": [NO_HURRY, "--mixed_precision=bfloat16"],
    "bfloat16, off": [OFF, "--mixed_precision=bfloat16"],
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ServerProcess]]:
    """A server for each of WAYS."""
    directory = tmp_path_factory.mktemp("optimise")
    save_network(directory / "model" / "1")
    started: dict[str, ServerProcess] = {}
    try:
        for way, flags in WAYS.items():
            log = directory / f"{len(started)}.log"
            started[way] = ServerProcess(directory / "model", log, flags=flags)
        yield {way: server.wait_ready() for way, server in started.items()}
    finally:
        for server in started.values():
            server.kill()


def test_the_same_answers_with_and_without(servers: dict[str, ServerProcess]) -> None:
    rows = np.random.default_rng(4).random([2, 16, 16, 128]).round(3).tolist()
    answers = {way: server.predict(rows).json()["predictions"] for way, server in servers.items()}
    for way, answer in answers.items():
        tolerance = 0.05 if "bfloat16" in way else 1e-3
        np.testing.assert_allclose(answer, answers["off"], rtol=tolerance, atol=tolerance / 10)


def test_models_are_made_fast_unless_a_flag_says_otherwise(servers: dict[str, ServerProcess]) -> None:
    decided = {way: any(line in server.log for line in DECISIONS) for way, server in servers.items()}
    assert decided == {way: OFF not in flags for way, flags in WAYS.items()}


def test_a_precision_needs_no_other_flag(servers: dict[str, ServerProcess]) -> None:
    tried = {way: "bfloat16: largest relative error" in server.log for way, server in servers.items()}
    assert tried == {way: way == "bfloat16" for way in WAYS}
    line = "float16 auto mixed precision is not supported. Valid option: bfloat16"
    refused = {way: line in server.log for way, server in servers.items()}
    assert refused == {way: way == "float16" for way in WAYS}


def test_a_run_that_fails_gives_the_same_code_and_reason(servers: dict[str, ServerProcess]) -> None:
    answers = [servers[way].predict(np.zeros([1, 16, 16, 3]).tolist()) for way in ("default", "off")]
    assert [answer.status_code for answer in answers] == [400, 400]
    # Where it happened stands in the lines below, by the names of nodes.
    reasons = [answer.json()["error"].splitlines()[0] for answer in answers]
    assert reasons == ["input depth must be evenly divisible by filter depth: 3 vs 128"] * 2
