"""fsspec's drivers, with time limits on everything and the environment that users already have.

Each driver finds credentials by itself, where its own tools look for them. For `s3://` the variables
of TensorFlow's S3 file system are understood too. Drivers are imported when the first base path needs
them, never before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

_CONNECT_SECONDS = 10
_READ_SECONDS = 30
# What s3fs reads at a time, times its concurrency, bounds the memory that a fetch takes per file.
_S3_BLOCK_BYTES = 8 << 20
_S3_CONCURRENCY = 4
_FALSE = ("0", "false")

_NO_CACHES = {"skip_instance_cache": True, "use_listings_cache": False}


def open_driver(scheme: str, loop: asyncio.AbstractEventLoop, environment: Mapping[str, str]) -> Any:
    """A file system of fsspec for `scheme`, made anew, whose coroutines run in `loop`.

    Raises:
        Exception: whatever a driver raises that finds no credentials.
    """
    import fsspec

    options = {"s3": _s3, "gs": _gs, "az": _az, "http": _http, "https": _http}.get(scheme)
    if options is None:
        return fsspec.filesystem(scheme)
    if scheme == "gs":
        # gcsfs's default class asks each bucket for its kind, over gRPC, which may be closed to us and
        # takes a minute to fail; reading needs no such thing.
        from gcsfs.core import GCSFileSystem

        return GCSFileSystem(loop=loop, **_NO_CACHES, **options(environment))
    return fsspec.filesystem(scheme, loop=loop, **_NO_CACHES, **options(environment))


async def close_driver(driver: Any) -> None:
    """Close the connections of `driver`; runs in its loop. fsspec has no word for it."""
    for name in ("_s3creator", "_session", "service_client"):
        holder: Any = getattr(driver, name, None)
        if hasattr(holder, "__aexit__"):
            await holder.__aexit__(None, None, None)


def _s3(environment: Mapping[str, str]) -> dict[str, Any]:
    """Options of s3fs; it reads AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL and others itself."""
    client: dict[str, Any] = {}
    if region := environment.get("AWS_REGION") or environment.get("S3_REGION"):
        client["region_name"] = region
    if environment.get("S3_VERIFY_SSL", "").lower() in _FALSE:
        client["verify"] = False
    elif authorities := environment.get("S3_CA_FILE"):
        client["verify"] = authorities
    options: dict[str, Any] = {
        "client_kwargs": client,
        "config_kwargs": {
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _READ_SECONDS,
            "retries": {"mode": "standard", "max_attempts": 3},
            "max_pool_connections": 64,
        },
        "default_block_size": _S3_BLOCK_BYTES,
        "max_concurrency": _S3_CONCURRENCY,
    }
    if endpoint := environment.get("S3_ENDPOINT"):
        scheme = "http" if environment.get("S3_USE_HTTPS", "").lower() in _FALSE else "https"
        options["endpoint_url"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
    return options


def _gs(environment: Mapping[str, str]) -> dict[str, Any]:
    """Options of gcsfs; it reads GOOGLE_APPLICATION_CREDENTIALS and STORAGE_EMULATOR_HOST itself."""
    del environment
    return {"requests_timeout": _timeout()}


def _az(environment: Mapping[str, str]) -> dict[str, Any]:
    """Options of adlfs; it reads AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_ACCOUNT_NAME, ... itself."""
    del environment
    return {"connection_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS}


def _http(environment: Mapping[str, str]) -> dict[str, Any]:
    """Options of fsspec's HTTP file system; proxies and ~/.netrc are honoured."""
    del environment
    # Only links count: addresses in the text of an index page are not its content.
    return {"simple_links": False, "client_kwargs": {"timeout": _timeout(), "trust_env": True}}


def _timeout() -> Any:
    """Time limits for aiohttp: none on the whole, as large files take their time."""
    import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
