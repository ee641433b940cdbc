from __future__ import annotations

from app.api.model_metrics import add_model_metrics
from app.config.model_config import ModelConfig
from app.errors import Code, ServingError
from app.lifecycle.readiness import Readiness
from app.lifecycle.states import State, StateBoard, VersionStatus
from app.telemetry.metrics import Registry


def test_states_labels_and_readiness() -> None:
    board, registry = StateBoard(), Registry()
    models = {"m": ModelConfig("m", "/m", labels={"stable": 2})}
    readiness = Readiness(lambda: models, board)
    add_model_metrics(registry, readiness, board)
    metrics = {metric.name.removeprefix("/ferry/"): metric for metric in registry.metrics()}
    assert metrics["ready"].cells() == [((), 0)]

    board.publish("m", VersionStatus(1, State.END))  # unloaded long ago
    board.publish("m", VersionStatus(2, State.AVAILABLE))
    board.publish("m", VersionStatus(3, State.END, ServingError(Code.INTERNAL, "broken")))
    board.publish("removed", VersionStatus(1, State.AVAILABLE))
    assert metrics["model_version_state"].cells() == [(("m", "3", "END"), 1), (("m", "2", "AVAILABLE"), 1)]
    assert metrics["model_labels"].cells() == [(("m", "stable", "2"), 1)]
    assert metrics["ready"].cells() == [((), 1)]
    readiness.begin_drain()
    assert metrics["ready"].cells() == [((), 0)]
