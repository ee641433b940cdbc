"""The falcon application: HTTP in, `RestService` in a thread, HTTP out."""

from __future__ import annotations

import asyncio
import functools
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import falcon
import falcon.asgi

from app.errors import Code, ServingError
from app.options import Options
from app.placement import Placement
from app.rest.direct import Direct, kind_of
from app.rest.pages import Page
from app.rest.service import Reply, RestService, error_reply

_JSON = "application/json"
_NOT_FOUND_PAGE = (
    b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
)
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
# TensorFlow Serving's limit of an unzipped body. Reading stops there, whatever the sender claims.
_LARGEST_UNZIPPED = 100 * 1024 * 1024


def make_application(
    service: RestService,
    options: Options,
    pages: Mapping[str, Page] | None = None,
    is_draining: Callable[[], bool] = lambda: False,
) -> falcon.asgi.App[Any, Any]:
    """A falcon application that answers every path.

    TensorFlow Serving matches targets without decoding them, so one sink takes all of them and
    falcon's router, which decodes, is not used.

    Args:
        service: answers `/v1/`.
        options: of the server.
        pages: what is answered beside the API, by path.
        is_draining: whether connections are to end with their next answer.
    """
    placement = Placement()
    application = _Application()
    application.direct = Direct(service, options, placement, is_draining)
    application.add_sink(_Sink(service, options, pages or {}, is_draining, placement), prefix="/")
    application.add_error_handler(Exception, _unexpected)
    return application


class _Application(falcon.asgi.App[Any, Any]):
    """A falcon application that answers HTTP versions which falcon refuses with a traceback.

    Attributes:
        direct: answers some requests without falcon, if the protocol asks it to.
    """

    direct: Direct

    async def __call__(  # type: ignore[override] # as the ASGI application that it is
        self, scope: dict[str, Any], receive: Any, send: Any
    ) -> None:
        if scope["type"] == "http" and scope["http_version"] not in ("1.0", "1.1"):
            scope = {**scope, "http_version": "1.0"}  # a request line without a version, or a false one
        await super().__call__(scope, receive, send)


class _Sink:
    def __init__(
        self,
        service: RestService,
        options: Options,
        pages: Mapping[str, Page],
        is_draining: Callable[[], bool],
        placement: Placement,
    ) -> None:
        self._service = service
        self._placement = placement
        self._pages = pages
        self._is_draining = is_draining
        self._cors = options.rest_api_enable_cors_support
        milliseconds = options.rest_api_timeout_in_ms
        self._timeout = milliseconds / 1000 if milliseconds > 0 else None
        # Decoding, running and encoding all happen here: a slow model or a large body never
        # holds up the event loop.
        self._threads = ThreadPoolExecutor(options.rest_api_num_threads, thread_name_prefix="ferry-rest")

    async def __call__(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response | None,
        **kwargs: Any,  # noqa: ARG002 - falcon calls sinks so
    ) -> None:
        assert resp is not None  # None is for WebSockets, which are not served
        await self._respond(req, resp)
        if self._is_draining():
            resp.set_header("Connection", "close")

    async def _respond(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        target = _target(req)
        path = target.partition("?")[0]
        page = self._pages.get(path)
        if page is not None:
            await _answer_page(page, path, target, req, resp)
            return
        if target[:4].lower() != "/v1/":
            resp.status = falcon.HTTP_404
            resp.content_type = "text/html"
            resp.set_header("Connection", "close")
            resp.data = _NOT_FOUND_PAGE
            return
        if self._cors:
            resp.set_headers(_CORS)
        if req.method == "OPTIONS":
            origin = req.get_header("Origin", default="")
            reply = _preflight_reply("http://" in origin or "https://" in origin)
            self._service.count(reply)
            resp.status = reply.status
            resp.content_type = "text/html; charset=ISO-8859-1"
            resp.data = reply.body
            return
        traffic = self._service.traffic(target)
        traffic.begin()
        received = sent = 0
        try:
            body = await req.stream.read()
            received = len(body)
            zipped = "gzip" in req.get_header("Content-Encoding", default="")
            reply = await self._answer(req.method, target, body, zipped)
            sent = len(reply.body)
        finally:
            traffic.end(received, sent)
        self._service.count(reply)
        resp.status = reply.status
        resp.content_type = _JSON
        resp.data = reply.body

    async def _answer(self, method: str, target: str, body: bytes, zipped: bool) -> Reply:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        work = functools.partial(self._work, method, target, body, zipped, deadline)
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            reply, seconds, cpu_seconds = await asyncio.wait_for(running, self._timeout)
        except TimeoutError:
            return self._service.timed_out(method, target)
        if method == "POST" and not zipped:
            self._placement.ran(kind_of(target, body), seconds, cpu_seconds, inline=False)
        return reply

    def _work(
        self, method: str, target: str, body: bytes, zipped: bool, deadline: float | None
    ) -> tuple[Reply, float, float]:
        """The answer, the seconds that it took, and those of them in which this thread computed."""
        start, cpu_start = time.perf_counter(), time.thread_time()
        reply = self._service.answer(method, target, unzip(body) if zipped else body, deadline)
        return reply, time.perf_counter() - start, time.thread_time() - cpu_start


async def _answer_page(
    page: Page, path: str, target: str, req: falcon.asgi.Request, resp: falcon.asgi.Response
) -> None:
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


def _preflight_reply(allowed: bool) -> Reply:
    return Reply(200, b"") if allowed else Reply(400, b"", Code.INVALID_ARGUMENT)


def _target(req: falcon.asgi.Request) -> str:
    """Path and query exactly as received."""
    raw: bytes = req.scope.get("raw_path") or req.scope["path"].encode()
    query: bytes = req.scope.get("query_string", b"")
    return (raw + b"?" + query if query else raw).decode("latin-1")


def unzip(body: bytes) -> bytes:
    """The content of a gzip body; empty for anything wrong with it, as TensorFlow Serving does."""
    decompressor = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        content = decompressor.decompress(body, _LARGEST_UNZIPPED)
    except zlib.error:
        return b""
    return content if decompressor.eof else b""


async def _unexpected(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]
) -> None:
    """Errors of HTTP itself, as the JSON error body that clients of this API expect."""
    del req, params
    if isinstance(error, falcon.HTTPError):
        resp.status = error.status
        message = error.description or error.title or error.status
        reply = error_reply(ServingError(Code.INVALID_ARGUMENT, str(message)))
    else:
        reply = error_reply(ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}"))
        resp.status = reply.status
    resp.content_type = _JSON
    resp.data = reply.body
