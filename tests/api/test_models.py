from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.api.models import ModelSpec, resolve
from app.engine.model import Model
from app.errors import ServingError
from app.lifecycle.manager import Manager
from tests.api.conftest import serving


@pytest.fixture(scope="module")
def registry(half_plus_two: Path) -> Iterator[Manager[Model]]:
    """Versions 2 and 10 of model `m` are available."""
    with serving("m", {2: half_plus_two / "1", 10: half_plus_two / "1"}) as manager:
        yield manager


def test_the_newest_version_or_the_one_asked_for(registry: Manager[Model]) -> None:
    for number, expected in ((None, 10), (2, 2), (10, 10)):
        with resolve(registry, ModelSpec("m", number)) as handle:
            assert (handle.model, handle.version) == ("m", expected)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec("m", 3), "NOT_FOUND: Servable not found for request: Specific(m, 3)"),
        (ModelSpec("m", 0), "NOT_FOUND: Servable not found for request: Specific(m, 0)"),
        (ModelSpec("M"), "NOT_FOUND: Servable not found for request: Latest(M)"),
        (ModelSpec("n", 2), "NOT_FOUND: Servable not found for request: Specific(n, 2)"),
        (ModelSpec("m", label="stable"), "INVALID_ARGUMENT: Unrecognized servable version label: stable"),
        (ModelSpec("m", label=""), "INVALID_ARGUMENT: Unrecognized servable version label: "),
        (ModelSpec("n", label="x"), "INVALID_ARGUMENT: Unrecognized servable version label: x"),
    ],
)
def test_what_is_not_there(registry: Manager[Model], spec: ModelSpec, message: str) -> None:
    with pytest.raises(ServingError) as raised:
        resolve(registry, spec)
    assert str(raised.value) == message
