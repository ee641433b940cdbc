from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue as Text

from app.rpc.grpcio_table import TableHandler
from app.rpc.method import DialogueMethod, Method, PushMethod, StreamMethod
from app.telemetry.observer import Observer


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def handler_of(table: TableHandler, path: str) -> Any:
    return table.service(SimpleNamespace(method=path, invocation_metadata=()))


def test_each_shape_of_method_has_a_handler_of_that_shape(threads: ThreadPoolExecutor) -> None:
    methods: dict[str, Any] = {
        "/unary": Method(Text, lambda request, call: request),  # noqa: ARG005
        "/quick": Method(Text, lambda request, call: request, quick=True),  # noqa: ARG005
        "/push": PushMethod(Text, lambda request, send: lambda: None),  # noqa: ARG005
        "/stream": StreamMethod(Text, lambda requests, call: requests),  # noqa: ARG005
        "/talk": DialogueMethod(Text, lambda request: request),
    }
    table = TableHandler(methods, threads, None, None, Observer())
    shapes = {
        path: (handler.request_streaming, handler.response_streaming)
        for path in methods
        if (handler := handler_of(table, path))
    }
    assert shapes == {
        "/unary": (False, False),
        "/quick": (False, False),
        "/push": (False, True),
        "/stream": (True, True),
        "/talk": (True, True),
    }
    pools = {path: thread_pool(handler_of(table, path)) for path in ("/unary", "/quick", "/push", "/talk")}
    assert pools["/unary"] is None, "the server's own threads"
    assert pools["/quick"] is pools["/push"]
    assert pools["/talk"] not in (None, pools["/quick"])


def thread_pool(handler: Any) -> Any:
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_stream
    return getattr(behaviour, "experimental_thread_pool", None)


def test_what_is_not_in_the_table_has_a_handler_too(threads: ThreadPoolExecutor) -> None:
    handler = handler_of(TableHandler({}, threads, None, None, Observer()), "/nowhere")
    assert handler.unary_unary is not None
