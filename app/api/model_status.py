"""GetModelStatus: the state of every version of a model that was ever seen."""

from __future__ import annotations

from typing import Any

from tensorflow_serving.apis import get_model_status_pb2

from app.api.models import ModelSpec
from app.errors import not_found
from app.lifecycle.states import StateBoard


def get_model_status(board: StateBoard, spec: ModelSpec) -> Any:
    """Answer a status request.

    Args:
        board: where states are read.
        spec: which model; a label is ignored, as TensorFlow Serving does.

    Returns:
        A GetModelStatusResponse, highest version first.

    Raises:
        ServingError: NOT_FOUND for a model or version that was never seen.
    """
    versions = board.versions(spec.name)
    if not versions:
        raise not_found(f"Could not find any versions of model {spec.name}")
    if spec.version is not None:
        versions = [status for status in versions if status.version == spec.version]
        if not versions:
            raise not_found(f"Could not find version {spec.version} of model {spec.name}")
    response = get_model_status_pb2.GetModelStatusResponse()
    for status in versions:
        entry = response.model_version_status.add(version=status.version, state=int(status.state))
        entry.status.SetInParent()
        if status.error is not None:
            entry.status.error_code = int(status.error.code)
            entry.status.error_message = status.error.message
    return response
