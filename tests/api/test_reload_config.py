from __future__ import annotations

from collections.abc import Sequence

import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2

from app.api.reload_config import reload_config
from app.config.model_config import ModelConfig
from app.errors import ServingError


class Applied:
    """Remembers what it was told to apply."""

    def __init__(self) -> None:
        self.lists: list[Sequence[ModelConfig]] = []

    def __call__(self, models: Sequence[ModelConfig]) -> None:
        self.lists.append(models)

    def metric(self, name: str) -> int:
        """A metric called `/lists` that counts the lists; others are unknown."""
        return len(self.lists) if name == "/lists" else 0


def request(text: str) -> model_management_pb2.ReloadConfigRequest:
    return text_format.Parse(text, model_management_pb2.ReloadConfigRequest())


def test_the_list_is_applied_and_metrics_are_answered() -> None:
    applied = Applied()
    model = 'config { name: "a" base_path: "/a" model_platform: "tensorflow" }'
    response = reload_config(
        applied,
        applied.metric,
        request(
            f"config {{ model_config_list {{ {model} }} }} "
            'metric_names: "/m" metric_names: "/lists" metric_names: "/m"'
        ),
    )
    assert applied.lists == [[ModelConfig("a", "/a")]]
    assert response.HasField("status")
    assert response.status.error_code == 0
    increases = {metric.name: metric.int64_value_increase for metric in response.metric}
    assert (increases, len(response.metric)) == ({"/m": 0, "/lists": 1}, 2)


def test_an_empty_list_is_a_list() -> None:
    applied = Applied()
    reload_config(applied, applied.metric, request("config { model_config_list {} }"))
    assert applied.lists == [[]]


@pytest.mark.parametrize("text", ["", "config {}", "config { custom_model_config {} }"])
def test_anything_else_is_refused(text: str) -> None:
    applied = Applied()
    with pytest.raises(ServingError) as raised:
        reload_config(applied, applied.metric, request(text))
    assert str(raised.value) == (
        "INVALID_ARGUMENT: ServerModelConfig type not supported by HandleReloadConfigRequest. "
        "Only ModelConfigList is currently supported"
    )
    assert applied.lists == []
