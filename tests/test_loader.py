"""A version directory to a model on every device: two logical CPU devices stand for two GPUs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine import savedmodel
from app.engine.model import Model
from app.engine.replicas import ReplicatedModel
from app.engine.session_model import SessionModel
from app.errors import Code, ServingError
from app.lifecycle.model_cache import ModelCache
from app.lifecycle.store import Stores
from app.loader import Loader
from app.options import Options
from app.telemetry.serving_metrics import ServingMetrics
from tests.support import models


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(models.save_counting(tmp_path_factory.mktemp("counting") / "1"))


@pytest.fixture
def two_devices(tmp_path: Path) -> str:
    file = tmp_path / "session.config"
    file.write_text("device_count { key: 'CPU' value: 2 }")
    return str(file)


def loader(file: str, **options: Any) -> Loader:
    flags = Options(tensorflow_session_config_file=file, **options)
    return Loader(flags, ServingMetrics.make(), ModelCache(Stores()), device_kind="CPU")


def predict(model: Model) -> None:
    model.run(model.signatures["serving_default"], {"x": np.array([1], np.float32)})


def predictions_of_both(model: Model) -> list[int]:
    """How often each of two replicas ran `predict`: idle ones take turns."""
    count = model.signatures["count"]
    return sorted(int(model.run(count, {})["predict"]) for _ in range(2))


def test_each_device_gets_a_replica_that_is_warm(counting: str, two_devices: str) -> None:
    model = loader(two_devices).load("m", 1, counting)
    assert isinstance(model, ReplicatedModel)
    assert predictions_of_both(model) == [1, 1]
    for _ in range(4):
        predict(model)
    assert predictions_of_both(model) == [3, 3]
    model.close()
    with pytest.raises((ServingError, RuntimeError)):
        predict(model)


def test_one_replica_is_the_plain_model(counting: str, two_devices: str) -> None:
    model = loader(two_devices, gpu_replicas=1).load("m", 1, counting)
    assert isinstance(model, SessionModel)
    model.close()


def test_a_replica_that_fails_closes_those_before_it(
    counting: str, two_devices: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Model] = []
    real = savedmodel.load

    def load(*arguments: Any, **more: Any) -> Model:
        if loaded:
            raise ServingError(Code.RESOURCE_EXHAUSTED, "no memory left on the second device")
        loaded.append(real(*arguments, **more))
        return loaded[0]

    monkeypatch.setattr(savedmodel, "load", load)
    with pytest.raises(ServingError, match="no memory left"):
        loader(two_devices).load("m", 1, counting)
    with pytest.raises((ServingError, RuntimeError)):
        predict(loaded[0])


def test_several_ops_at_a_time_give_the_same_answers(half_plus_two: Path) -> None:
    model = loader("", tensorflow_inter_op_parallelism=2).load("m", 1, str(half_plus_two / "1"))
    y = model.run(model.signatures["serving_default"], {"x": np.array([1], np.float32)})["y"]
    assert y.tolist() == [2.5]
    model.close()


def test_the_log_tells_threads_and_devices(two_devices: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "app")
    loader(two_devices, tensorflow_intra_op_parallelism=3, tensorflow_inter_op_parallelism=2)
    assert caplog.messages == [
        "TensorFlow: 3 intra-op and 2 inter-op threads; graphs run in the inter-op threads; models are "
        "placed on /device:CPU:0, /device:CPU:1."
    ]
