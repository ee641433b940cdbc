"""`ModelServerConfig` to `ModelConfig`s: which models to serve, from where, which versions, which labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tensorflow_serving.config import model_server_config_pb2

from app.config import request_logging, text_proto
from app.config.base_path import check_base_path
from app.config.request_logging import RequestLogging
from app.config.version_policy import VersionPolicy
from app.errors import Code, ServingError, invalid_argument

PLATFORM = "tensorflow"
_TYPE_TENSORFLOW = 1


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve.

    Attributes:
        name: unique among the models of a server.
        base_path: absolute, without version directory.
        platform: as configured; `check_platform` says whether it can be served.
        policy: which versions.
        labels: version by label.
        logging: how its requests are recorded; None if they are not.
    """

    name: str
    base_path: str
    platform: str = PLATFORM
    policy: VersionPolicy = field(default_factory=VersionPolicy)
    labels: Mapping[str, int] = field(default_factory=dict)
    logging: RequestLogging | None = None


def read_file(path: str) -> Sequence[ModelConfig] | None:
    """The models of a `--model_config_file`; None for a file that names no list.

    Raises:
        ServingError: those of `text_proto.read` and `from_proto`.
    """
    proto = text_proto.read(path, model_server_config_pb2.ModelServerConfig())
    if proto.WhichOneof("config") == "custom_model_config":
        raise ServingError(Code.UNIMPLEMENTED, "ModelServer does not yet support custom model config.")
    if proto.WhichOneof("config") is None:
        return None
    return from_proto(proto.model_config_list)


def from_proto(config_list: Any) -> Sequence[ModelConfig]:
    """The models of a `ModelConfigList`.

    Raises:
        ServingError: INVALID_ARGUMENT with TensorFlow Serving's text for a name that is listed twice,
            a relative base path, or request logging that cannot be.
    """
    seen = set()
    for proto in config_list.config:
        if proto.name in seen:
            raise invalid_argument(f"Illegal to list model {proto.name} multiple times in config list")
        seen.add(proto.name)
    for proto in config_list.config:
        check_base_path(proto.name, proto.base_path)
    return [
        ModelConfig(
            name=proto.name,
            base_path=proto.base_path,
            platform=_platform(proto),
            policy=_policy(proto.model_version_policy),
            labels=dict(proto.version_labels),
            logging=(
                request_logging.from_proto(proto.name, proto.logging_config)
                if proto.HasField("logging_config")
                else None
            ),
        )
        for proto in config_list.config
    ]


def check_platform(model: ModelConfig) -> None:
    """Refuse a platform that is not served: INVALID_ARGUMENT."""
    if model.platform != PLATFORM:
        raise invalid_argument(f"Model {model.name} requests unsupported platform {model.platform}")


def _platform(proto: Any) -> str:
    """The platform's name, by either of the two fields that may hold it."""
    if proto.model_type and proto.model_platform:
        raise invalid_argument(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and "
            f"ModelServerConfig::model_platform, model name is {proto.name}"
        )
    if not proto.model_type and not proto.model_platform:
        raise invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {proto.name}"
        )
    if proto.model_type and proto.model_type != _TYPE_TENSORFLOW:
        raise invalid_argument(f"ModelServerConfig::model_type choice {proto.model_type} not supported.")
    return PLATFORM if proto.model_type else str(proto.model_platform)


def _policy(proto: Any) -> VersionPolicy:
    choice = proto.WhichOneof("policy_choice")
    if choice == "all":
        return VersionPolicy(latest=None)
    if choice == "specific":
        return VersionPolicy(latest=None, specific=frozenset(proto.specific.versions))
    return VersionPolicy(latest=max(1, proto.latest.num_versions))
