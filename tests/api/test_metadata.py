from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorflow_serving.apis import get_model_metadata_pb2

from app.api.metadata import check_fields, get_model_metadata
from app.api.models import ModelSpec
from app.engine.model import Model
from app.errors import ServingError
from app.lifecycle.manager import Manager
from tests.api.conftest import serving


@pytest.fixture(scope="module")
def registry(two_inputs_path: Path) -> Iterator[Manager[Model]]:
    """Version 7 of model `m` is available."""
    with serving("m", {7: two_inputs_path}) as manager:
        yield manager


def test_every_signature_as_it_stands_in_the_model(registry: Manager[Model], two_inputs: Model) -> None:
    response = get_model_metadata(registry, ModelSpec("m"))
    assert (response.model_spec.name, response.model_spec.version.value) == ("m", 7)
    assert not response.model_spec.signature_name
    assert set(response.metadata) == {"signature_def"}
    packed = response.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert packed.Unpack(signatures)
    assert dict(signatures.signature_def) == two_inputs.signature_defs
    assert set(signatures.signature_def) == {"serving_default", "defaulted", "__saved_model_init_op"}
    assert signatures.signature_def["defaulted"].defaults["b"].int64_val == [10]


def test_a_model_that_is_not_there(registry: Manager[Model]) -> None:
    with pytest.raises(ServingError) as raised:
        get_model_metadata(registry, ModelSpec("m", 8))
    assert str(raised.value) == "NOT_FOUND: Servable not found for request: Specific(m, 8)"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "GetModelMetadataRequest must specify at least one metadata_field"),
        (["foo"], "Metadata field foo is not supported"),
        (["signature_def", "bar", "foo"], "Metadata field bar is not supported"),
        ([""], "Metadata field  is not supported"),
    ],
)
def test_fields_that_there_are_not(fields: list[str], message: str) -> None:
    with pytest.raises(ServingError) as raised:
        check_fields(fields)
    assert str(raised.value) == f"INVALID_ARGUMENT: {message}"


def test_the_field_that_there_is_may_be_repeated() -> None:
    check_fields(["signature_def", "signature_def"])
