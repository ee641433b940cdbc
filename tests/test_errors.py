from __future__ import annotations

import grpc
import pytest

from app.errors import Code, ServingError, invalid_argument, not_found


def test_codes_are_those_of_grpc() -> None:
    assert {code.name: int(code) for code in Code} == {code.name: code.value[0] for code in grpc.StatusCode}


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.OK, 200),
        (Code.CANCELLED, 499),
        (Code.UNKNOWN, 500),
        (Code.INVALID_ARGUMENT, 400),
        (Code.DEADLINE_EXCEEDED, 504),
        (Code.NOT_FOUND, 404),
        (Code.ALREADY_EXISTS, 409),
        (Code.PERMISSION_DENIED, 403),
        (Code.RESOURCE_EXHAUSTED, 429),
        (Code.FAILED_PRECONDITION, 400),
        (Code.ABORTED, 409),
        (Code.OUT_OF_RANGE, 400),
        (Code.UNIMPLEMENTED, 501),
        (Code.INTERNAL, 500),
        (Code.UNAVAILABLE, 503),
        (Code.DATA_LOSS, 500),
        (Code.UNAUTHENTICATED, 401),
    ],
)
def test_the_http_status_of_a_code(code: Code, status: int) -> None:
    assert code.http_status == status


def test_an_error_prints_as_code_and_message() -> None:
    error = ServingError(Code.DATA_LOSS, "a\nb")
    assert str(error) == "DATA_LOSS: a\nb"
    assert (error.code, error.message) == (Code.DATA_LOSS, "a\nb")


def test_shorthands() -> None:
    assert str(invalid_argument("x")) == "INVALID_ARGUMENT: x"
    assert str(not_found("x")) == "NOT_FOUND: x"
