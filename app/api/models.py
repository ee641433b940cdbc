"""How a request names a model, and how that becomes a pinned version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from app.engine.model import Model
from app.lifecycle.labels import Labels
from app.lifecycle.version import Handle
from app.telemetry.observation import current


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


class LoadedVersion(Protocol):
    """A version that can be run: a `Handle`, or one that is not served yet."""

    @property
    def servable(self) -> Model:
        """What was loaded."""

    @property
    def version(self) -> int:
        """Its number."""


class Registry(Protocol):
    """Where versions are pinned and labels are known: the lifecycle manager."""

    labels: Labels

    def acquire(self, model: str, number: int | None = None) -> Handle[Model]:
        """Pin a version, or raise NOT_FOUND."""


def resolve(registry: Registry, spec: ModelSpec) -> Handle[Model]:
    """Pin the version that `spec` names.

    Raises:
        ServingError: INVALID_ARGUMENT for an unknown label, NOT_FOUND for what is not available.
    """
    seen = current.get()
    if seen is not None:
        seen.asked_for(spec.name, spec.signature_name)
    version = spec.version
    if spec.label is not None:
        version = registry.labels.version(spec.name, spec.label)
    handle = registry.acquire(spec.name, version)
    if seen is not None:
        seen.served_by(handle.version)
    return handle
