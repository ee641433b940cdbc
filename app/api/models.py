"""How a request names a model, and how that becomes a pinned version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from app.engine.model import Model
from app.errors import invalid_argument
from app.lifecycle.manager import Handle


@dataclass(frozen=True)
class ModelSpec:
    """Which model a request wants.

    Attributes:
        name: the model's name.
        version: one version; None for the newest available.
        label: a version label, instead of `version`.
        signature_name: empty for the default signature.
    """

    name: str
    version: int | None = None
    label: str | None = None
    signature_name: str = ""


class Registry(Protocol):
    """Where versions are pinned: the lifecycle manager."""

    def acquire(self, model: str, number: int | None = None) -> Handle[Model]:
        """Pin a version, or raise NOT_FOUND."""


def resolve(registry: Registry, spec: ModelSpec) -> Handle[Model]:
    """Pin the version that `spec` names.

    Raises:
        ServingError: INVALID_ARGUMENT for an unknown label (there are none without a model config),
            NOT_FOUND for what is not available.
    """
    if spec.label is not None:
        raise invalid_argument(f"Unrecognized servable version label: {spec.label}")
    return registry.acquire(spec.name, spec.version)
