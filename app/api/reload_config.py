"""HandleReloadConfigRequest: serve other models from now on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from tensorflow_serving.apis import model_management_pb2

from app.config.model_config import ModelConfig, from_proto
from app.errors import invalid_argument

logger = logging.getLogger(__name__)

ApplyModels = Callable[[Sequence[ModelConfig]], None]
ReadMetric = Callable[[str], int]


def reload_config(apply: ApplyModels, read_metric: ReadMetric, request: Any) -> Any:
    """Replace the list of models, and wait until the new ones are available.

    Args:
        apply: puts a list into force; raises ServingError.
        read_metric: the value of the first cell of a metric by its internal name; 0 for an unknown one.
        request: a ReloadConfigRequest.

    Returns:
        A ReloadConfigResponse with, for each metric asked for, the increase between before and after.

    Raises:
        ServingError: INVALID_ARGUMENT for anything but a model config list; those of the list.
    """
    if request.config.WhichOneof("config") != "model_config_list":
        raise invalid_argument(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    models = from_proto(request.config.model_config_list)
    for index, model in enumerate(models):
        logger.info(
            "Config entry\n\tindex : %d\n\tpath : %s\n\tname : %s\n\tplatform : %s",
            index,
            model.base_path,
            model.name,
            model.platform,
        )
    before = {name: read_metric(name) for name in request.metric_names}
    apply(models)
    response = model_management_pb2.ReloadConfigResponse()
    response.status.SetInParent()
    for name, value in before.items():
        response.metric.add(name=name, int64_value_increase=read_metric(name) - value)
    return response
