"""What decides whether XLA is used; e2e/test_xla.py has a process in which it compiles."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest
from tensorflow.core.protobuf import config_pb2

from app.engine import xla
from app.engine.session_model import SessionModel
from app.errors import Code, ServingError
from tests.engine.conftest import load
from tests.support import models


class Slow(SessionModel):
    def call(self, *arguments: Any) -> Any:
        time.sleep(2e-3)  # longer than a run: not a wait for anything
        return super().call(*arguments)


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "app.engine.xla")


def make(path: Path, kind: type[SessionModel], factor: float = 0.5) -> SessionModel:
    model = load(models.save_half_plus(path / "1", factor))
    assert isinstance(model, SessionModel)
    return kind(model.session, model.signature_defs)


def test_the_configuration_asks_for_it() -> None:
    config = config_pb2.ConfigProto(intra_op_parallelism_threads=3)
    own = xla.with_xla(config)
    assert own.intra_op_parallelism_threads == 3
    assert own.graph_options.optimizer_options.global_jit_level == config_pb2.OptimizerOptions.ON_2
    assert config.graph_options.optimizer_options.global_jit_level == config_pb2.OptimizerOptions.DEFAULT


def test_a_faster_one_takes_the_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slow = make(tmp_path / "a", Slow)
    quick = make(tmp_path / "b", SessionModel)
    assert xla.faster(slow, lambda: quick) is quick
    assert "XLA is used; times the speed: serving_default at batch 1" in caplog.text
    with pytest.raises(RuntimeError, match="closed"):
        slow.session.run([])


def test_one_that_is_not_faster_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, slow = make(tmp_path / "a", SessionModel), make(tmp_path / "b", Slow)
    assert xla.faster(model, lambda: slow) is model
    assert "XLA is not used: not faster (0." in caplog.text
    with pytest.raises(RuntimeError, match="closed"):
        slow.session.run([])


def test_other_answers_are_not_taken_however_fast(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slow, other = make(tmp_path / "a", Slow), make(tmp_path / "b", SessionModel, 0.51)
    assert xla.faster(slow, lambda: other) is slow
    with pytest.raises(RuntimeError, match="closed"):
        other.session.run([])
    assert "XLA is not used: output y of serving_default would differ" in caplog.text


def test_a_failure_keeps_the_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = make(tmp_path, SessionModel)

    def full() -> SessionModel:
        raise ServingError(Code.RESOURCE_EXHAUSTED, "no room")

    assert xla.faster(model, full) is model
    assert "XLA is not used: RESOURCE_EXHAUSTED: no room" in caplog.text
    assert "XLA failed" not in caplog.text

    def broken() -> SessionModel:
        raise ValueError("a mistake")

    assert xla.faster(model, broken) is model
    assert "XLA failed" in caplog.text
