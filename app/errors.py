"""The one kind of error a request or a load can end with, and the one table of its codes.

Codes are gRPC's canonical ones. The HTTP column is TensorFlow Serving's, which differs from
the usual mapping in one place: FAILED_PRECONDITION is 400, not 412.
"""

from __future__ import annotations

import enum
import os


class Code(enum.IntEnum):
    """Canonical status codes; the values are those on the gRPC wire."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @property
    def http_status(self) -> int:
        """The HTTP status that REST answers with for this code."""
        return _HTTP_STATUS.get(self, 500)


_HTTP_STATUS = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}


class ServingError(Exception):
    """A request, a load or a start that ended with a status other than OK.

    Attributes:
        code: the canonical code.
        message: the text sent to the client, exact and untruncated.
        retry_after: seconds after which the same request may do better; None if that cannot be said.
    """

    def __init__(self, code: Code, message: str, *, retry_after: float | None = None) -> None:
        """Keep `code` and `message`; `str()` of the error is `CODE_NAME: message`."""
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.retry_after = retry_after

    def __str__(self) -> str:
        """The form in which TensorFlow prints a status: `CODE_NAME: message`."""
        return f"{self.code.name}: {self.message}"


def invalid_argument(message: str) -> ServingError:
    """Shorthand for the most frequent error."""
    return ServingError(Code.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    """Shorthand for what is not there."""
    return ServingError(Code.NOT_FOUND, message)


def without_traceback(error: BaseException) -> ServingError:
    """`error` as one to keep: INTERNAL unless it is a ServingError, and free of what a traceback holds."""
    if isinstance(error, ServingError):
        return ServingError(error.code, error.message)
    return ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")


def cannot_read(path: str, reason: str | None) -> ServingError:
    """PERMISSION_DENIED for a file or directory that the server's user cannot read, with what to do."""
    return ServingError(
        Code.PERMISSION_DENIED,
        f"{path}: {reason}. Make it readable for user {os.getuid()}, group {os.getgid()}.",
    )
