"""Which base paths can be served. Needs no protos, so that the command line can ask too."""

from __future__ import annotations

from app.errors import Code, ServingError, invalid_argument


def check_base_path(name: str, path: str) -> None:
    """Refuse base paths that cannot be served.

    Raises:
        ServingError: INVALID_ARGUMENT for a relative one, UNIMPLEMENTED for a remote one.
    """
    if "://" in path:
        raise ServingError(
            Code.UNIMPLEMENTED,
            f"Base path {path} of model {name}: this version reads local directories only; "
            "mount or copy the model.",
        )
    if not path.startswith("/"):
        raise invalid_argument(
            f"Expected model {name} to have an absolute path or URI; got base_path()={path}"
        )
