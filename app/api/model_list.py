"""The list of models: all that are configured, with the states of their versions and their labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.config.model_config import ModelConfig
from app.lifecycle.states import StateBoard, VersionStatus


@dataclass(frozen=True)
class ListedModel:
    """One configured model.

    Attributes:
        name: as in requests.
        labels: label and version, sorted by label.
        versions: those ever seen, highest first; none before the first was found.
    """

    name: str
    labels: tuple[tuple[str, int], ...]
    versions: tuple[VersionStatus, ...]


def list_models(models: Iterable[ModelConfig], board: StateBoard) -> list[ListedModel]:
    """Every model of the configuration in force, sorted by name."""
    return [
        ListedModel(model.name, tuple(sorted(model.labels.items())), tuple(board.versions(model.name)))
        for model in sorted(models, key=lambda model: model.name)
    ]
