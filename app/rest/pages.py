"""What the REST port answers beside the API: metrics and probes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import falcon
import falcon.asgi
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


async def answer_page(
    page: Page, path: str, target: str, req: falcon.asgi.Request, resp: falcon.asgi.Response
) -> None:
    """Answer a request for `page` at `path`; `target` is what was asked for, with its query."""
    resp.content_type = "text/plain"
    if page.methods and req.method not in page.methods:
        resp.status = falcon.HTTP_405
        resp.set_header("Allow", ", ".join(page.methods))
        resp.data = f"{path} answers {' and '.join(page.methods)}.".encode("latin-1")
        return
    if target != path and not page.takes_query:
        resp.status = falcon.HTTP_400
        resp.data = f"Unexpected path: {target}. Should be {path}".encode(
            "latin-1"
        )  # as _target() decoded it
        return
    accept = req.get_header("Accept", default="")
    # In none of the threads that serve: a page of many models takes milliseconds.
    content = await asyncio.to_thread(page.render, accept) if page.slow else page.render(accept)
    resp.status = content.status
    resp.content_type = content.content_type
    resp.data = content.body
