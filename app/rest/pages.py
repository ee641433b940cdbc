"""What the REST port answers beside the API: metrics and probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from app.lifecycle.readiness import Condition, Readiness


class Content(NamedTuple):
    """One answer.

    Attributes:
        body: as it is sent.
        content_type: of the body.
        status: of HTTP.
    """

    body: bytes
    content_type: str = "text/plain"
    status: int = 200


@dataclass(frozen=True)
class Page:
    """A path that is matched exactly, as received, and wins over the API's.

    Attributes:
        render: the value of the Accept header, empty for none, to the answer.
        slow: whether to render in a thread; the event loop does it otherwise.
        methods: others get 405; empty takes all.
        takes_query: whether a query is ignored; it is a 400 otherwise.
        open: whether it needs no token where others do.
    """

    render: Callable[[str], Content]
    slow: bool = False
    methods: tuple[str, ...] = ("GET", "HEAD")
    takes_query: bool = True
    open: bool = False


def probes(readiness: Readiness) -> Mapping[str, Page]:
    """`/livez` and `/readyz`.

    They need no thread, so that a server whose threads are all at work still answers them.
    """
    return {
        "/livez": Page(lambda accept: Content(b"ok"), open=True),  # noqa: ARG005 - one type for everybody
        "/readyz": Page(lambda accept: _readyz(readiness), open=True),  # noqa: ARG005
    }


def _readyz(readiness: Readiness) -> Content:
    condition = readiness.condition()
    if condition is Condition.READY:
        return Content(b'{"ready":true}', "application/json")
    missing = [
        {
            "model": model.model,
            "version": None if model.version is None else str(model.version),
            "state": None if model.state is None else model.state.name,
            "error": model.error,
        }
        for model in readiness.missing()
    ]
    body = {"ready": False, "draining": condition is Condition.DRAINING, "missing": missing}
    return Content(orjson.dumps(body), "application/json", 503)
