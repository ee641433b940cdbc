"""What a unary call knows of itself."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from google.protobuf.wrappers_pb2 import StringValue as Text

from app.rpc.http2.headers import read_head
from app.rpc.http2.streams import Stream
from app.rpc.http2.unary_call import UnaryCall, deadline_of
from app.rpc.method import Method
from tests.rpc.http2.wire import REQUEST

FIELDS = [(name.encode(), value.encode()) for name, value in REQUEST]


@pytest.mark.parametrize(
    ("timeout", "deadline"), [(None, None), (b"5S", 105.0), (b"500m", 100.5), (b"2147484S", None)]
)
def test_a_deadline_counts_from_what_was_heard(timeout: bytes | None, deadline: float | None) -> None:
    fields = FIELDS if timeout is None else [*FIELDS, (b"grpc-timeout", timeout)]
    assert deadline_of(read_head(fields), 100.0) == deadline


def test_only_what_runs_in_a_thread_keeps_its_place_when_it_is_cancelled() -> None:
    left: list[str] = []
    stream = Stream(1, read_head(FIELDS), window=0, receive_window=0)

    def call(name: str) -> UnaryCall:
        method = Method(Text, lambda request, call: request)  # noqa: ARG005
        return UnaryCall(stream, method, None, lambda: left.append(name))

    waiting, in_line, running = call("waiting"), call("in line"), call("running")
    in_line.future, running.future = Future(), Future()
    assert in_line.future.cancel()
    assert running.future.set_running_or_notify_cancel()
    for each in (waiting, in_line, running):
        each.cancel()
    assert left == ["waiting", "in line"]


def test_the_size_is_that_of_the_message() -> None:
    stream = Stream(1, read_head(FIELDS), window=0, receive_window=0)
    call = UnaryCall(stream, Method(Text, lambda request, call: request), None, lambda: None)  # noqa: ARG005
    assert call.size == 0
    call.message = b"hello", False
    assert call.size == 5
