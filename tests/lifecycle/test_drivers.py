from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from fsspec.asyn import get_loop

from app.lifecycle.drivers import open_driver


@pytest.fixture
def loop() -> asyncio.AbstractEventLoop:
    """fsspec's own loop: a driver may want to close its connections as late as at the interpreter's end."""
    running: asyncio.AbstractEventLoop = get_loop()
    return running


@pytest.mark.parametrize(
    ("environment", "endpoint"),
    [
        ({}, None),
        ({"S3_ENDPOINT": "minio:9000"}, "https://minio:9000"),
        ({"S3_ENDPOINT": "minio:9000", "S3_USE_HTTPS": "1"}, "https://minio:9000"),
        ({"S3_ENDPOINT": "minio:9000", "S3_USE_HTTPS": "0"}, "http://minio:9000"),
        ({"S3_ENDPOINT": "http://minio:9000"}, "http://minio:9000"),
    ],
)
def test_s3_endpoints_as_tensorflow_servings_users_set_them(
    environment: Mapping[str, str], endpoint: str | None, loop: asyncio.AbstractEventLoop
) -> None:
    assert open_driver("s3", loop, environment).endpoint_url == endpoint


@pytest.mark.parametrize(
    ("environment", "client"),
    [
        ({"AWS_REGION": "eu-west-1", "S3_REGION": "us-east-1"}, {"region_name": "eu-west-1"}),
        ({"S3_REGION": "us-east-1", "S3_VERIFY_SSL": "0"}, {"region_name": "us-east-1", "verify": False}),
        ({"S3_VERIFY_SSL": "1"}, {}),
        ({"S3_CA_FILE": "/ca.pem"}, {"verify": "/ca.pem"}),
    ],
)
def test_s3_regions_and_certificates(
    environment: Mapping[str, str], client: Mapping[str, Any], loop: asyncio.AbstractEventLoop
) -> None:
    assert open_driver("s3", loop, environment).client_kwargs == client


def test_every_driver_has_time_limits_and_keeps_no_listings(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "UseDevelopmentStorage=true")
    s3 = open_driver("s3", loop, {})
    gs = open_driver("gs", loop, {})
    az = open_driver("az", loop, {})
    web = open_driver("https", loop, {})
    assert type(gs).__name__ == "GCSFileSystem", "the one that does not ask buckets for their kind over gRPC"
    assert s3.config_kwargs["connect_timeout"] == 10
    assert s3.config_kwargs["read_timeout"] == 30
    assert (gs.requests_timeout.sock_connect, gs.requests_timeout.sock_read) == (10, 30)
    assert az._timeout_kwargs.items() >= {"connection_timeout": 10, "read_timeout": 30}.items()
    assert web.client_kwargs["timeout"].sock_read == 30
    assert web.client_kwargs["trust_env"], "proxies and netrc"
    assert not any(driver.dircache.use_listings_cache for driver in (s3, gs, az, web))
    assert open_driver("s3", loop, {}) is not s3, "each store has its own"
