"""Which base paths can be served. Needs no protos and no driver, so that the command line can ask too."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType

from app.errors import Code, ServingError, invalid_argument


@dataclass(frozen=True)
class Driver:
    """What reads the base paths of a scheme.

    Attributes:
        module: fsspec's driver for it; it comes with what it needs.
        extra: the optional dependencies of Ferry that install it.
    """

    module: str
    extra: str


DRIVERS = MappingProxyType(
    {
        "s3": Driver("s3fs", "s3"),
        "gs": Driver("gcsfs", "gcs"),
        "az": Driver("adlfs", "azure"),
        "http": Driver("aiohttp", "http"),
        "https": Driver("aiohttp", "http"),
    }
)


def is_remote(path: str) -> bool:
    """Whether `path` is a URI."""
    return "://" in path


def normalised(path: str) -> str:
    """`path` without what does not count: a slash at the end, and for local paths `//`, `.` and `..`."""
    return path.rstrip("/") if is_remote(path) else os.path.normpath(path)


def check_base_path(name: str, path: str) -> None:
    """Refuse base paths that cannot be served.

    Raises:
        ServingError: INVALID_ARGUMENT for a relative one or a URI without a bucket or host,
            UNIMPLEMENTED for a remote one that nothing here can read.
    """
    if not is_remote(path):
        if not path.startswith("/"):
            raise invalid_argument(
                f"Expected model {name} to have an absolute path or URI; got base_path()={path}"
            )
        return
    scheme, _, rest = path.partition("://")
    driver = DRIVERS.get(scheme)
    if driver is None:
        raise ServingError(
            Code.UNIMPLEMENTED,
            f"Base path {path} of model {name}: scheme {scheme}:// is not known. Use an absolute path or "
            f"one of {', '.join(f'{known}://' for known in DRIVERS)}.",
        )
    if not rest.strip("/") or rest.startswith("/"):
        raise invalid_argument(
            f"Base path {path} of model {name} names no bucket, container or host. "
            f"Write {scheme}://BUCKET/PATH."
        )
    # Looked up, not imported: drivers start threads, and the process that asks may still fork.
    if any(find_spec(module) is None for module in ("fsspec", driver.module)):
        raise ServingError(
            Code.UNIMPLEMENTED,
            f"Base path {path} of model {name}: the driver for {scheme}:// is not installed. "
            f"Install it: pip install 'ferry-model-server[{driver.extra}]'",
        )
