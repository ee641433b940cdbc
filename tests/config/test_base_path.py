from __future__ import annotations

import pytest

from app.config.base_path import check_base_path
from app.errors import ServingError


def test_absolute_paths_are_fine() -> None:
    check_base_path("m", "/models/m/")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("models/m", "INVALID_ARGUMENT: Expected model m to have an absolute path or URI; got base_path()="),
        ("", "INVALID_ARGUMENT: Expected model m to have an absolute path or URI; got base_path()="),
        ("s3://bucket/m", "UNIMPLEMENTED: Base path s3://bucket/m of model m: this version reads local"),
    ],
)
def test_others_are_refused(path: str, message: str) -> None:
    with pytest.raises(ServingError) as raised:
        check_base_path("m", path)
    assert str(raised.value).startswith(message)
