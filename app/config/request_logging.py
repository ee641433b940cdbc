"""`LoggingConfig` to `RequestLogging`: which part of a model's requests is recorded, and where."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from app.errors import Code, ServingError, invalid_argument

COLLECTOR = "tfrecord"
"""The only type of log collector there is; one that is not named is this one."""


@dataclass(frozen=True)
class RequestLogging:
    """How the requests of one model are recorded.

    Attributes:
        filename_prefix: absolute; the files' names begin with it.
        sampling_rate: the part of the requests that is recorded, 0 to 1.
    """

    filename_prefix: str
    sampling_rate: float


def from_proto(model: str, proto: Any) -> RequestLogging:
    """What the `logging_config` of a model asks for.

    `attributes` and the rates of single tasks speak of servers that TensorFlow Serving's library knows;
    they change nothing here.

    Raises:
        ServingError: NOT_FOUND for another collector, INVALID_ARGUMENT for a prefix or rate that cannot be
            used, or for `custom_logging_config`.
    """
    collector, rate = proto.log_collector_config, proto.sampling_config.sampling_rate
    if collector.type not in ("", COLLECTOR):
        raise ServingError(
            Code.NOT_FOUND,
            f"Cannot find LogCollector::Factory for type: {collector.type} (model {model}); "
            f"the only one here is `{COLLECTOR}`.",
        )
    if proto.HasField("custom_logging_config"):
        raise invalid_argument(
            f"Model {model} has a custom_logging_config, for which there is no logger; leave it out."
        )
    prefix = collector.filename_prefix
    if not os.path.isabs(prefix) or prefix.endswith("/"):
        raise invalid_argument(
            f"The filename_prefix of model {model}'s logging_config is `{prefix}`; it must be an absolute "
            "path of this machine with the beginning of a file name, such as /logs/requests."
        )
    if not 0 <= rate <= 1:
        raise invalid_argument(
            f"The sampling_rate of model {model}'s logging_config must be between 0 and 1; was {rate:g}."
        )
    return RequestLogging(os.path.normpath(prefix), rate)
