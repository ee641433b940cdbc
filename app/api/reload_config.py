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


def reload_config(apply: ApplyModels, request: Any) -> Any:
    """Replace the list of models, and wait until the new ones are available.

    Args:
        apply: puts a list into force; raises ServingError.
        request: a ReloadConfigRequest.

    Returns:
        A ReloadConfigResponse; each metric asked for is reported with the increase 0, as is what
        TensorFlow Serving does not know.

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
    apply(models)
    response = model_management_pb2.ReloadConfigResponse()
    response.status.SetInParent()
    for name in dict.fromkeys(request.metric_names):
        response.metric.add(name=name, int64_value_increase=0)
    return response
