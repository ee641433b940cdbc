from __future__ import annotations

import pytest

from app.errors import ServingError
from app.lifecycle.labels import Labels


def failure(labels: Labels, model: str, label: str) -> str:
    with pytest.raises(ServingError) as raised:
        labels.version(model, label)
    return str(raised.value)


def test_labels_are_replaced_as_a_whole() -> None:
    labels = Labels()
    labels.replace({"m": {"stable": 1, "canary": 2}})
    assert labels.version("m", "canary") == 2
    labels.replace({"m": {"stable": 2}})
    assert labels.version("m", "stable") == 2
    assert failure(labels, "m", "canary") == "INVALID_ARGUMENT: Unrecognized servable version label: canary"
    assert failure(labels, "n", "stable") == "INVALID_ARGUMENT: Unrecognized servable version label: stable"


def test_without_a_configuration_labels_are_unavailable() -> None:
    assert failure(Labels(), "m", "x") == "UNAVAILABLE: Model labels does not init yet.x"
