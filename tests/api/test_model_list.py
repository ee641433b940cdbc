from __future__ import annotations

from app.api.model_list import ListedModel, list_models
from app.config.model_config import ModelConfig
from app.lifecycle.states import State, StateBoard, VersionStatus


def test_configured_models_with_versions_and_labels() -> None:
    board = StateBoard()
    one, two = VersionStatus(1, State.END), VersionStatus(2, State.AVAILABLE)
    for status in (one, two):
        board.publish("m", status)
    board.publish("removed", one)
    models = [ModelConfig("m", "/m", labels={"stable": 2, "canary": 3}), ModelConfig("absent", "/a")]
    assert list_models(models, board) == [
        ListedModel("absent", (), ()),
        ListedModel("m", (("canary", 3), ("stable", 2)), (two, one)),
    ]
