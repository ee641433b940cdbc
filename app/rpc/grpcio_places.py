"""`--max_in_flight_requests` with grpcio: calls count from their headers on, before they have a thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from typing import Any, TypeVar

import grpc

from app.admission import Admission
from app.errors import ServingError
from app.rpc.method import retry_metadata, wire_message

STATUS_CODES = {status.value[0]: status for status in grpc.StatusCode}
"""grpcio's name for each code."""
T = TypeVar("T")


class PlacesPool(futures.ThreadPoolExecutor):
    """Threads of another pool; what is submitted has a place until it has run.

    grpcio takes pools of this class only; its own threads are never started.
    """

    def __init__(self, threads: futures.ThreadPoolExecutor, admission: Admission) -> None:
        """Run in `threads`; `admission` was asked for a refusal before each submission."""
        super().__init__(1)
        self._pool = threads
        self._admission = admission

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> futures.Future[T]:
        """Run `fn` in the other pool."""
        leave = self._admission.enter(asked=True)
        try:
            future = self._pool.submit(fn, *args, **kwargs)
        except BaseException:
            leave()
            raise
        future.add_done_callback(lambda _: leave())
        return future


def refusing_handler(error: ServingError, quick: futures.ThreadPoolExecutor) -> Any:
    """A handler that answers with `error`, in `quick`, without reading what the client sends."""

    def refuse(requests: Any, context: Any) -> None:
        del requests
        context.set_trailing_metadata(retry_metadata(error))
        context.abort(STATUS_CODES[int(error.code)], wire_message(error))

    refuse.experimental_thread_pool = quick  # type: ignore[attr-defined] # as grpcio looks for it
    return grpc.stream_unary_rpc_method_handler(refuse)
