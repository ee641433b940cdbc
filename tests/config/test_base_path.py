from __future__ import annotations

import subprocess
import sys

import pytest

from app.config import base_path
from app.config.base_path import check_base_path, is_remote, normalised
from app.errors import ServingError


@pytest.mark.parametrize(
    "path",
    [
        "/models/m/",
        "s3://bucket/m",
        "gs://bucket",
        "az://container/m/",
        "http://host:8080/m",
        "https://host/m",
    ],
)
def test_absolute_paths_and_known_uris_are_fine(path: str) -> None:
    check_base_path("m", path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("models/m", "INVALID_ARGUMENT: Expected model m to have an absolute path or URI; got base_path()="),
        ("", "INVALID_ARGUMENT: Expected model m to have an absolute path or URI; got base_path()="),
        (
            "hdfs://host/m",
            "UNIMPLEMENTED: Base path hdfs://host/m of model m: scheme hdfs:// is not known. Use an absolute "
            "path or one of s3://, gs://, az://, http://, https://.",
        ),
        ("memory://m", "UNIMPLEMENTED: Base path memory://m of model m: scheme memory:// is not known."),
        ("s3://", "INVALID_ARGUMENT: Base path s3:// of model m names no bucket, container or host."),
        ("s3:///m", "INVALID_ARGUMENT: Base path s3:///m of model m names no bucket, container or host."),
    ],
)
def test_others_are_refused(path: str, message: str) -> None:
    with pytest.raises(ServingError) as raised:
        check_base_path("m", path)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("scheme", "extra"), [("s3", "s3"), ("gs", "gcs"), ("az", "azure"), ("https", "http")]
)
def test_a_missing_driver_is_told_with_how_to_install_it(
    scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_path, "find_spec", lambda module: None if module != "fsspec" else object())
    with pytest.raises(ServingError) as raised:
        check_base_path("m", f"{scheme}://bucket/m")
    assert str(raised.value) == (
        f"UNIMPLEMENTED: Base path {scheme}://bucket/m of model m: the driver for {scheme}:// is not "
        f"installed. Install it: pip install 'ferry-model-server[{extra}]'"
    )


def test_nothing_is_imported_to_find_out() -> None:
    program = (
        "import sys; from app.config.base_path import check_base_path; check_base_path('m', 's3://b/m');"
        "print({'fsspec', 's3fs', 'aiohttp', 'asyncio', 'tensorflow'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"


def test_what_does_not_count_is_dropped() -> None:
    assert normalised("/models//m/./") == "/models/m"
    assert normalised("s3://bucket/m//") == "s3://bucket/m"
    assert is_remote("s3://bucket")
    assert not is_remote("/models/s3:/bucket")
