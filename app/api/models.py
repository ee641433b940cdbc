"""How a request names a model, and how that becomes a pinned version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from app.engine.model import Model
from app.errors import invalid_argument
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


def read_spec(request: Any) -> ModelSpec:
    """The model spec of a request, which may still lack a name; INVALID_ARGUMENT if there is none."""
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    return from_proto(request.model_spec)


def from_proto(proto: Any) -> ModelSpec:
    """What a `tensorflow.serving.ModelSpec` says."""
    choice = proto.WhichOneof("version_choice")
    return ModelSpec(
        name=proto.name,
        version=proto.version.value if choice == "version" else None,
        label=proto.version_label if choice == "version_label" else None,
        signature_name=proto.signature_name,
    )


def require_name(spec: ModelSpec) -> None:
    """Refuse a spec without a name: INVALID_ARGUMENT."""
    if not spec.name:
        raise invalid_argument("ModelSpec has no name specified.")


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
