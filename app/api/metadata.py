"""GetModelMetadata: the signatures of a model, as they stand in its SavedModel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorflow_serving.apis import get_model_metadata_pb2

from app.api.models import ModelSpec, Registry, resolve
from app.errors import invalid_argument

SIGNATURE_DEF = "signature_def"


def check_fields(fields: Sequence[str]) -> None:
    """Check what is asked for: only `signature_def` exists.

    Raises:
        ServingError: INVALID_ARGUMENT for no field or an unknown one.
    """
    if not fields:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in fields:
        if field != SIGNATURE_DEF:
            raise invalid_argument(f"Metadata field {field} is not supported")


def get_model_metadata(registry: Registry, spec: ModelSpec) -> Any:
    """Answer a metadata request.

    Args:
        registry: where the model is pinned.
        spec: which model; its signature name is not used.

    Returns:
        A GetModelMetadataResponse whose `metadata["signature_def"]` packs a SignatureDefMap.

    Raises:
        ServingError: those of `resolve`.
    """
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    with resolve(registry, spec) as handle:
        response.model_spec.name = handle.model
        response.model_spec.version.value = handle.version
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature_def in handle.servable.signature_defs.items():
            signatures.signature_def[name].CopyFrom(signature_def)
    response.metadata[SIGNATURE_DEF].Pack(signatures)
    return response
