from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue as Text

from app.errors import Code, ServingError
from app.rpc.grpcio_behaviours import behaviour_of, talk_of, unimplemented
from app.rpc.method import Call, DialogueMethod, Method


class AbortedError(Exception):
    """As grpcio ends a call."""


class Context:
    """The context of a call, as far as behaviours ask for it."""

    def __init__(self, remaining: float | None = None) -> None:
        self.remaining = remaining
        self.trailing: Any = ()

    def time_remaining(self) -> float | None:
        return self.remaining

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.trailing = metadata

    def abort(self, code: grpc.StatusCode, text: str) -> None:
        raise AbortedError(code, text)


def failing(error: Exception) -> Callable[[Any, Call], Any]:
    def handle(request: Any, call: Call) -> Any:
        del request, call
        raise error

    return handle


def ended(handle: Callable[[Any, Call], Any], data: bytes = b"") -> tuple[Any, ...]:
    """Code and text that a unary call is aborted with."""
    with pytest.raises(AbortedError) as raised:
        behaviour_of("/test.Service/Method", Method(Text, handle))(data, Context())
    return raised.value.args


def test_an_error_becomes_its_status() -> None:
    error = ServingError(Code.NOT_FOUND, "no such model")
    assert ended(failing(error)) == (grpc.StatusCode.NOT_FOUND, "no such model")


def test_what_is_no_message_is_internal() -> None:
    code, text = ended(failing(AssertionError("not reached")), b"\xff")
    assert (code, text) == (grpc.StatusCode.INTERNAL, "Exception deserializing request!")


def test_an_unexpected_error_is_internal_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert ended(failing(KeyError("x"))) == (grpc.StatusCode.INTERNAL, "KeyError: 'x'")
    assert "/test.Service/Method failed unexpectedly" in caplog.text


@pytest.mark.parametrize(("remaining", "has_deadline"), [(None, False), (1e9, False), (5.0, True)])
def test_only_a_deadline_of_the_client_counts(remaining: float | None, has_deadline: bool) -> None:
    calls: list[Call] = []

    def handle(request: Any, call: Call) -> Any:
        calls.append(call)
        return request

    data = Text(value="x").SerializeToString()
    assert behaviour_of("/m", Method(Text, handle))(data, Context(remaining)) == data
    (call,) = calls
    assert (call.deadline is not None) == has_deadline
    if call.deadline is not None:
        assert call.deadline <= time.monotonic() + 5


def test_a_dialogue_is_open_until_its_client_ends_it() -> None:
    is_open: set[Any] = set()
    context = Context()
    talk = talk_of(DialogueMethod(Text, lambda request: request.upper()), is_open)
    answers = talk(iter(["a", "b"]), context)
    assert next(answers) == "A"
    assert is_open == {context}
    assert list(answers) == ["B"]
    assert is_open == set()


def test_a_method_that_is_not_there_has_no_text() -> None:
    with pytest.raises(AbortedError) as raised:
        unimplemented(b"", Context())
    assert raised.value.args == (grpc.StatusCode.UNIMPLEMENTED, "")
