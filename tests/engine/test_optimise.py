from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from app.engine import graph_rewrite, savedmodel, trial
from app.engine import optimise as room
from app.engine.budget import Budget
from app.engine.optimise import Optimisation
from app.engine.session_config import session_config
from app.engine.session_model import SessionModel
from app.options import Options
from tests.support import models

CHANNELS = 128


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Small models load in no time and gain little: neither must decide what these tests see."""
    monkeypatch.setattr(room, "_LEAST_GAIN", 0.0)
    monkeypatch.setattr(room, "_WORTHWHILE_GAIN", 0.0)
    monkeypatch.setattr(room, "Budget", lambda _: Budget(1000))
    caplog.set_level(logging.INFO, "app")


def load(path: Path, *, fast: bool = True, bfloat16: bool = False) -> SessionModel:
    optimisation = Optimisation(bfloat16=bfloat16) if fast else None
    return savedmodel.load(str(path), ["serve"], session_config(Options()), optimisation=optimisation)


class Network(tf.Module):  # type: ignore[misc]
    """Two convolutions with batch normalisation: a plain one, and a depthwise one."""

    def __init__(self) -> None:
        super().__init__()
        random = np.random.default_rng(1)

        def variable(*shape: int) -> Any:
            return tf.Variable(random.random(shape).astype(np.float32) / 8)

        self.filters = variable(3, 3, CHANNELS, CHANNELS)
        self.depthwise = variable(3, 3, CHANNELS, 1)
        self.norms = [[variable(CHANNELS) for _ in range(4)] for _ in range(2)]
        self.more = variable(CHANNELS, 512)

    def __call__(self, x: Any) -> Any:
        y = tf.nn.conv2d(x, self.filters, 1, "SAME")
        gamma, beta, mean, variance = self.norms[0]
        y = tf.nn.relu(tf.compat.v1.nn.fused_batch_norm(y, gamma, beta, mean, variance, is_training=False)[0])
        y = tf.nn.depthwise_conv2d(y, self.depthwise, [1, 1, 1, 1], "SAME")
        gamma, beta, mean, variance = self.norms[1]
        scale = gamma * tf.math.rsqrt(variance + 1e-3)
        return tf.nn.relu(y * scale + (beta - mean * scale))


IMAGE = tf.TensorSpec([None, 8, 8, CHANNELS], tf.float32, name="x")


def save(path: Path, make: Callable[[Network], Mapping[str, Any] | Any]) -> Path:
    network = Network()
    signatures = make(network)
    if callable(signatures):
        signatures = {"serving_default": tf.function(signatures, input_signature=[IMAGE], autograph=False)}
    network.functions = list(signatures.values())
    return models.save(network, path, signatures)


@pytest.fixture(scope="module")
def two_signatures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`serving_default` and `both`, on the same weights."""
    return save(
        tmp_path_factory.mktemp("network") / "1",
        lambda network: {
            "serving_default": tf.function(
                lambda x: {"y": network(x)}, input_signature=[IMAGE], autograph=False
            ),
            "both": tf.function(
                lambda x: {"y": network(x) + 1.0, "sum": tf.reduce_sum(network(x), [1, 2])},
                input_signature=[IMAGE],
                autograph=False,
            ),
        },
    )


X = np.random.default_rng(2).random([2, 8, 8, CHANNELS]).astype(np.float32)


def answers(model: SessionModel) -> dict[str, Any]:
    return {
        f"{name}/{alias}": value
        for name, signature in model.signatures.items()
        if signature.is_callable
        for alias, value in model.run(signature, {"x": X}).items()
    }


def test_answers_stay_equal_and_weights_are_shared(
    two_signatures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, fast = load(two_signatures, fast=False), load(two_signatures)
    assert "6 normalisations folded" in next(text for text in caplog.messages if "Model made fast" in text)
    expected, found = answers(plain), answers(fast)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
    assert fast.signatures == plain.signatures
    assert fast.signature_defs == plain.signature_defs
    nodes = fast.session.graph.as_graph_def().node
    assert sum(node.ByteSize() for node in nodes if node.op == "Const") < 10_000
    assert len([node for node in nodes if node.op == "VarHandleOp"]) == 4  # two filters and two biases
    plain.close()
    fast.close()


def test_some_outputs_come_from_the_callable_for_all(two_signatures: Path) -> None:
    model = load(two_signatures)
    whole = model.run(model.signatures["both"], {"x": X})
    made = model._callable.cache_info().currsize
    (alias,) = part = model.run(model.signatures["both"], {"x": X}, ["sum"])
    assert alias == "sum"
    np.testing.assert_array_equal(part["sum"], whole["sum"])
    assert model._callable.cache_info().currsize == made
    model.close()


def test_the_original_gives_its_memory_back(two_signatures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Any] = []
    real = SessionModel.close

    def close(self: SessionModel) -> None:
        closed.append(self.session)
        real(self)

    monkeypatch.setattr(SessionModel, "close", close)
    model = load(two_signatures)
    (session,) = closed
    assert session is not model.session
    with pytest.raises(RuntimeError, match="closed"):
        session.run([])
    model.close()


class CountingBudget(Budget):
    """Counts the steps; the time is over when one of them asks."""

    def __init__(self, steps: list[str], over_at: int | None) -> None:
        self._now = 0.0
        super().__init__(1e6, lambda: self._now)
        self._steps, self._over_at = steps, over_at

    def check(self, step: str, seconds: float) -> None:
        if len(self._steps) == self._over_at:
            self._now = 1e9
        self._steps.append(step)
        super().check(step, seconds)


def test_a_spent_budget_keeps_the_original_at_every_step(
    two_signatures: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_steps: list[str] = []
    monkeypatch.setattr(room, "Budget", lambda _: CountingBudget(all_steps, None))
    load(two_signatures).close()
    assert list(dict.fromkeys(all_steps)) == [
        *("open a session", "compare answers", "measure"),
    ]
    plain = load(two_signatures, fast=False)
    expected = answers(plain)
    plain.close()
    for step in dict.fromkeys(all_steps):
        steps: list[str] = []
        over_at = all_steps.index(step)
        monkeypatch.setattr(room, "Budget", lambda _, s=steps, at=over_at: CountingBudget(s, at))
        caplog.clear()
        model = load(two_signatures)
        assert steps == all_steps[: over_at + 1]
        assert any(f"Model kept as it is: no time to {step}: " in text for text in caplog.messages)
        for name, value in answers(model).items():
            np.testing.assert_array_equal(value, expected[name])
        model.close()


@pytest.mark.parametrize(("factor", "seconds"), [(2.0, 1800), (3.0, 2700), (0.5, 1000)])
def test_the_time_is_a_multiple_of_the_load_and_its_first_runs(
    two_signatures: Path, monkeypatch: pytest.MonkeyPatch, factor: float, seconds: float
) -> None:
    given: list[float] = []

    def budget(seconds: float) -> Budget:
        given.append(seconds)
        return Budget(1000)

    real = room.Optimising.finish
    monkeypatch.setattr(room, "Budget", budget)
    monkeypatch.setattr(room.Optimising, "finish", lambda self, model, _: real(self, model, 1000.0))
    config = session_config(Options())
    savedmodel.load(
        str(two_signatures), ["serve"], config, optimisation=Optimisation(load_factor=factor)
    ).close()
    assert seconds - 100 < given[0] < seconds + 100


def test_weights_that_cannot_be_looked_at_are_restored_plainly(
    two_signatures: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise tf.errors.DataLossError(None, None, "no weights\nat all")

    monkeypatch.setattr(room, "restore_and_read", fail)
    model = load(two_signatures)
    line = "Model kept as it is: its weights cannot be looked at: no weights ("
    assert any(text.startswith(line) for text in caplog.messages)
    assert model._whole is None
    assert answers(model).keys() == {"serving_default/y", "both/y", "both/sum"}
    model.close()


def test_a_replica_on_a_device_stays_as_it_was_placed(
    two_signatures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = session_config(Options())
    model = savedmodel.load(
        str(two_signatures), ["serve"], config, device="/device:CPU:0", optimisation=Optimisation()
    )
    assert not any(text.startswith("Model ") for text in caplog.messages)
    model.close()


def test_bfloat16_reports_its_error(two_signatures: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load(two_signatures, bfloat16=True)
    (line,) = (text for text in caplog.messages if text.startswith("bfloat16: largest relative error "))
    assert 0 < float(line.split()[4].rstrip(",")) < 0.1
    assert any(text.startswith("Model made fast") and ", bfloat16" in text for text in caplog.messages)
    model.close()


def _written(network: Network) -> Any:
    runs = network.runs = tf.Variable(0.0)

    def call(x: Any) -> Any:
        runs.assign_add(1.0)
        return {"y": network(x) + runs}

    return call


def _table(network: Network) -> Any:
    keys, values = tf.constant([0, 1], tf.int64), tf.constant([1.0, 2.0])
    table = network.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0.0)
    return lambda x: {"y": network(x) + table.lookup(tf.constant(1, tf.int64))}


def _printing(network: Network) -> Any:
    def call(x: Any) -> Any:
        tf.print("run", output_stream="file:///dev/null")
        return {"y": network(x)}

    return call


def _unknown_rank(network: Network) -> Any:
    spec = tf.TensorSpec(None, tf.float32, name="x")
    return {
        "serving_default": tf.function(
            lambda x: {"y": network(tf.ensure_shape(x, [None, 8, 8, CHANNELS]))},
            input_signature=[spec],
            autograph=False,
        )
    }


def _constants(network: Network) -> Any:
    large = np.ones([3, 1024, 1024], np.float32)
    return lambda x: {"y": network(x) + tf.reduce_sum(tf.constant(large))}


def _nothing(network: Network) -> Any:
    return {
        "serving_default": tf.function(
            lambda x: {"y": tf.reduce_sum(x) + tf.reduce_sum(network.filters) + tf.reduce_sum(network.more)},
            input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")],
        )
    }


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_written, "it writes variables (AssignAddVariableOp)"),
        (_table, "it has tables ("),
        (
            lambda network: lambda x: {"y": network(x) + tf.random.uniform([1])},
            "it has state or effects of its own (RandomUniform)",
        ),
        (_printing, "it has state or effects of its own (PrintV2)"),
        (_unknown_rank, "signature serving_default takes no made-up input"),
        (_constants, "MB of constants, which would be copied"),
        (_nothing, "nothing in it to make faster"),
        (
            lambda network: lambda x: {"y": tf.linalg.band_part(network(x), -1, 0)},
            "it uses the op MatrixBandPart, with which this was never tried",
        ),
    ],
)
def test_what_is_kept_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[Network], Any], reason: str
) -> None:
    model = load(save(tmp_path / "1", make))
    (line,) = (text for text in caplog.messages if text.startswith("Model kept as it is: "))
    assert reason in line
    assert model._whole is None
    model.close()


def test_tiny_models_are_left_alone(half_plus_two: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(half_plus_two / "1").close()
    assert any("Model kept as it is: too small to gain" in text for text in caplog.messages)


@pytest.mark.parametrize("least", ["_LEAST_GAIN", "_WORTHWHILE_GAIN"])
def test_a_model_that_gets_no_faster_is_kept_and_loses_nothing(
    two_signatures: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, least: str
) -> None:
    monkeypatch.setattr(room, least, 1000.0)
    model = load(two_signatures)
    assert any("Model kept as it is: not faster (" in text for text in caplog.messages)
    assert answers(model).keys() == {"serving_default/y", "both/y", "both/sum"}
    model.close()


def test_a_model_whose_answers_would_differ_is_kept(
    two_signatures: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "difference", lambda *_: (0.5, 1e-4))
    model = load(two_signatures)
    assert any("would differ by 0.5 of its size" in text for text in caplog.messages)
    assert model._whole is None
    answers(model)
    model.close()


def test_a_failure_half_way_keeps_the_model_as_it_is(
    two_signatures: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("half way")

    monkeypatch.setattr(trial.Trial, "compare", fail)
    model = load(two_signatures)
    assert any(text.startswith("Model kept as it is: half way") for text in caplog.messages)
    answers(model)
    model.close()


@pytest.mark.parametrize("dtype", [tf.float16, tf.int32, tf.float64])
def test_other_types_answer_the_same(tmp_path: Path, dtype: Any) -> None:
    module = tf.Module()
    module.w = tf.Variable(tf.cast(tf.random.stateless_uniform([512, 512], [1, 2]) * 3, dtype))

    def call(x: Any) -> Any:
        return {"y": tf.matmul(x, module.w) + module.w[0]}

    spec = tf.TensorSpec([None, 512], dtype, name="x")
    module.function = tf.function(call, input_signature=[spec], autograph=False)
    path = models.save(module, tmp_path / "1", module.function)
    plain, fast = load(path, fast=False), load(path)
    x = np.random.default_rng(5).integers(0, 3, [3, 512]).astype(dtype.as_numpy_dtype)
    (expected,) = plain.run(plain.signatures["serving_default"], {"x": x}).values()
    (found,) = fast.run(fast.signatures["serving_default"], {"x": x}).values()
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-2 if dtype == tf.float16 else 1e-6)
    plain.close()
    fast.close()


@pytest.mark.parametrize("size", [1, 3, 8])
def test_any_batch_and_open_inner_dimensions(tmp_path: Path, size: int) -> None:
    spec = tf.TensorSpec([None, None, None, CHANNELS], tf.float32, name="x")

    def make(network: Network) -> Any:
        return {
            "serving_default": tf.function(
                lambda x: {"y": network(x)}, input_signature=[spec], autograph=False
            )
        }

    path = save(tmp_path / "1", make)
    plain, fast = load(path, fast=False), load(path)
    assert fast._whole is not None
    for batch in (1, 5):
        x = np.random.default_rng(6).random([batch, size, size + 1, CHANNELS]).astype(np.float32)
        (expected,) = plain.run(plain.signatures["serving_default"], {"x": x}).values()
        (found,) = fast.run(fast.signatures["serving_default"], {"x": x}).values()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    plain.close()
    fast.close()


@pytest.mark.parametrize(
    "outer",
    [
        lambda network, x: tf.cond(tf.reduce_sum(x) > 0, lambda: network(x), lambda: x * 2),
        lambda network, x: tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, network(y)), (0, x))[1],
        lambda network, x: network(tf.map_fn(lambda row: row * 2 + 1, x)),
        lambda network, x: tf.where(tf.equal(x, x[:1]), np.float32("nan"), network(x)),
    ],
    ids=["cond", "while", "map", "nan"],
)
def test_control_flow_and_nan(tmp_path: Path, outer: Callable[[Network, Any], Any]) -> None:
    path = save(tmp_path / "1", lambda network: lambda x: {"y": outer(network, x)})
    plain, fast = load(path, fast=False), load(path)
    for sign in (1, -1):
        (expected,) = plain.run(plain.signatures["serving_default"], {"x": sign * X}).values()
        (found,) = fast.run(fast.signatures["serving_default"], {"x": sign * X}).values()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.nanmax(np.abs(expected)))
    plain.close()
    fast.close()


def test_xla_is_tried_only_where_nothing_else_helped(
    two_signatures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[SessionModel] = []

    def faster(model: SessionModel, _: Callable[[], SessionModel]) -> SessionModel:
        tried.append(model)
        return model

    def load_with(*, xla: bool) -> SessionModel:
        config = session_config(Options())
        return savedmodel.load(str(two_signatures), ["serve"], config, optimisation=Optimisation(xla=xla))

    monkeypatch.setattr("app.engine.xla.faster", faster)
    load_with(xla=True)
    assert tried == []
    monkeypatch.setattr(room, "_WORTHWHILE_GAIN", 1000.0)
    load_with(xla=False)
    assert tried == []
    assert load_with(xla=True) in tried


def test_later_versions_of_a_model_that_gains_are_not_slower(
    two_signatures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However busy the machine is: they are not measured, and have all the time."""
    optimisation = Optimisation()
    given: list[float] = []

    def budget(seconds: float) -> Budget:
        given.append(seconds)
        return Budget(1000)

    def load_next(path: Path) -> str:
        caplog.clear()
        savedmodel.load(str(path), ["serve"], session_config(Options()), optimisation=optimisation)
        return next(text for text in caplog.messages if text.startswith("Model "))

    monkeypatch.setattr(room, "Budget", budget)
    assert "; times the speed: " in load_next(two_signatures)
    monkeypatch.setattr(room, "_WORTHWHILE_GAIN", 1000.0)
    assert "6 filters fixed; as an earlier version. It took" in load_next(two_signatures)
    other = save(tmp_path / "1", lambda network: lambda x: {"y": network(x) * 2.0})
    assert "kept as it is: not faster" in load_next(other)
    assert [seconds == math.inf for seconds in given] == [False, True, False]


def halve_filters(path: Path) -> None:
    """Change the checkpoint in place, as training goes on."""
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
        handles = [op.outputs[0] for op in graph.get_operations() if op.type == "VarHandleOp"]
        for handle in handles:
            if handle.op.get_attr("shape") == tf.TensorShape([3, 3, CHANNELS, CHANNELS]).as_proto():
                value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)
                session.run(tf.raw_ops.AssignVariableOp(resource=handle, value=value * 0.5))
        saver = meta_graph.saver_def
        session.run(
            saver.save_tensor_name, {saver.filename_tensor_name: str(path / "variables" / "variables")}
        )


def test_the_same_graph_is_not_rewritten_again(
    two_signatures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions with other weights share it, and answer with their own."""
    optimisation = Optimisation()
    config = session_config(Options())
    path = save(tmp_path / "1", lambda network: network)
    shutil.copytree(path, tmp_path / "2")
    halve_filters(tmp_path / "2")

    def load_next(version: str) -> SessionModel:
        found = savedmodel.load(str(tmp_path / version), ["serve"], config, optimisation=optimisation)
        assert isinstance(found, SessionModel)
        return found

    first = load_next("1")
    expected = [answers(load(tmp_path / version, fast=False)) for version in ("1", "2")]
    rewrites: list[Any] = []
    real = graph_rewrite.optimise

    def optimise(*given: Any, **named: Any) -> Any:
        rewrites.append(given)
        return real(*given, **named)

    monkeypatch.setattr(graph_rewrite, "optimise", optimise)
    second = load_next("2")
    assert second.session.graph is first.session.graph
    assert rewrites == []
    for model, wanted in zip((first, second), expected, strict=True):
        for name, value in answers(model).items():
            np.testing.assert_allclose(value, wanted[name], rtol=1e-4, atol=1e-4)
    ((name, value),) = expected[0].items()
    assert np.abs(value - expected[1][name]).max() > 1
    savedmodel.load(str(two_signatures), ["serve"], config, optimisation=optimisation)
    assert len(rewrites) == 1


@pytest.mark.parametrize("shared", [True, False])
def test_later_versions_are_compared_by_all_that_need_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    def two(network: Network) -> dict[str, Any]:
        other = network if shared else Network()
        network.other = other
        return {
            name: tf.function(each, input_signature=[IMAGE], autograph=False)
            for name, each in (("serving_default", network), ("other", lambda x: other(x) * 2.0))
        }

    path = save(tmp_path / "1", two)
    compared: list[int] = []

    class Counting(trial.Trial):
        def __init__(self, model: SessionModel, signatures: Any) -> None:
            compared.append(len(signatures))
            super().__init__(model, signatures)

    monkeypatch.setattr(room, "Trial", Counting)
    optimisation = Optimisation()
    for _ in range(2):
        savedmodel.load(str(path), ["serve"], session_config(Options()), optimisation=optimisation)
    assert compared == [2, 1 if shared else 2]


def test_a_later_version_with_other_answers_is_kept_as_it_is(
    two_signatures: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    optimisation = Optimisation()
    config = session_config(Options())
    savedmodel.load(str(two_signatures), ["serve"], config, optimisation=optimisation)
    monkeypatch.setattr(trial, "difference", lambda *_: (1.0, 0.0))
    savedmodel.load(str(two_signatures), ["serve"], config, optimisation=optimisation)
    assert "would differ by 1" in caplog.text
