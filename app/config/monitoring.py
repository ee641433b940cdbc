"""`MonitoringConfig` to a `PrometheusConfig`: whether and where the Prometheus page is served."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from app.config import text_proto

logger = logging.getLogger(__name__)

_DEFAULT_PATH = "/monitoring/prometheus/metrics"

# The client package of TensorFlow Serving does not hold this message.
_FILE = """
    name: "tensorflow_serving/config/monitoring_config.proto" package: "tensorflow.serving" syntax: "proto3"
    message_type {
      name: "PrometheusConfig"
      field { name: "enable" number: 1 type: TYPE_BOOL label: LABEL_OPTIONAL }
      field { name: "path" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
    }
    message_type {
      name: "MonitoringConfig"
      field {
        name: "prometheus_config" number: 1 type: TYPE_MESSAGE label: LABEL_OPTIONAL
        type_name: ".tensorflow.serving.PrometheusConfig"
      }
    }
"""


@dataclass(frozen=True)
class PrometheusConfig:
    """Where the page is served.

    Attributes:
        path: matched exactly, on the REST port; what does not start with `/` is never matched.
    """

    path: str = _DEFAULT_PATH


def read_file(path: str) -> PrometheusConfig | None:
    """What a `--monitoring_config_file` says; None if it does not enable the page.

    Raises:
        ServingError: those of `text_proto.read`.
    """
    config = text_proto.read(path, _monitoring_config()).prometheus_config
    if not config.enable:
        return None
    if config.path and not config.path.startswith("/"):
        logger.warning(
            "The path `%s` of prometheus_config in %s can never be requested; write `/%s`.",
            config.path,
            path,
            config.path,
        )
    return PrometheusConfig(config.path or _DEFAULT_PATH)


def _monitoring_config() -> Any:
    return text_proto.message_class(_FILE, "tensorflow.serving.MonitoringConfig")()
