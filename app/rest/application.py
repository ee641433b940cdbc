"""The falcon application: HTTP in, `RestService` in a thread, HTTP out."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import falcon
import falcon.asgi

from app.admission import whole_seconds
from app.config.auth_tokens import Group
from app.cpus import thread_seconds
from app.errors import Code, ServingError
from app.options import Options
from app.placement import Placement
from app.rest.body import TooLargeError, read_body, unzip
from app.rest.cors import Cors
from app.rest.direct import Direct, held_seconds, kind_of
from app.rest.pages import Page, answer_page
from app.rest.service import Reply, RestService, error_reply
from app.security.guard import Guard
from app.telemetry.observation import Observation, peer_of
from app.telemetry.observer import Observer

_JSON = "application/json"
_NOT_FOUND_PAGE = (
    b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
)


def make_application(
    service: RestService,
    options: Options,
    pages: Mapping[str, Page] | None = None,
    is_draining: Callable[[], bool] = lambda: False,
    *,
    guard: Guard | None = None,
    observer: Observer | None = None,
) -> falcon.asgi.App[Any, Any]:
    """A falcon application that answers every path.

    TensorFlow Serving matches targets without decoding them, so one sink takes all of them and
    falcon's router, which decodes, is not used.

    Args:
        service: answers `/v1/`.
        options: of the server.
        pages: what is answered beside the API, by path.
        is_draining: whether connections are to end with their next answer.
        guard: asked about every request but those for open pages; all are let in if None.
        observer: sees the requests, but for those of `pages`.
    """
    placement = Placement()
    application = _Application()
    observer = observer or Observer()
    application.direct = Direct(
        service, options, placement, is_draining, guarded=guard is not None, observer=observer
    )
    sink = _Sink(service, options, pages or {}, is_draining, placement, guard=guard, observer=observer)
    application.add_sink(sink, prefix="/")
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
        *,
        guard: Guard | None,
        observer: Observer,
    ) -> None:
        self._service = service
        self._placement = placement
        self._pages = pages
        self._is_draining = is_draining
        self._guard = guard
        self._observer = observer
        self._cors = Cors(options)
        self._largest_body = options.rest_api_max_body_mb * 1024 * 1024
        self._max_gzip_ratio = options.rest_api_max_gzip_ratio
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
        target = _target(req)
        path = target.partition("?")[0]
        page = self._pages.get(path)
        if page is not None:
            if not page.open and self._refuse(Group.STATUS, req, resp) is not None:
                return
            await answer_page(page, path, target, req, resp)
        elif self._observer.active:
            await self._observed(target, req, resp)
        else:
            await self._respond(target, req, resp, None)
        if self._is_draining():
            resp.set_header("Connection", "close")

    async def _observed(self, target: str, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        seen = self._observer.begin(
            "REST",
            req.method,
            target,
            peer=peer_of(req.scope.get("client")),
            traceparent=req.get_header("traceparent", default=""),
            tracestate=req.get_header("tracestate", default=""),
        )
        seen.answered(Code.CANCELLED, Code.CANCELLED.http_status)  # unless there will be an answer
        try:
            await self._respond(target, req, resp, seen)
        finally:
            self._observer.end(seen, len(resp.data or b""))

    async def _respond(
        self, target: str, req: falcon.asgi.Request, resp: falcon.asgi.Response, seen: Observation | None
    ) -> None:
        if target[:4].lower() != "/v1/":
            resp.status = falcon.HTTP_404
            resp.content_type = "text/html"
            resp.set_header("Connection", "close")
            resp.data = _NOT_FOUND_PAGE
            if seen is not None:
                seen.answered(Code.NOT_FOUND, 404)
            return
        if self._cors.enabled:
            resp.set_headers(self._cors.headers(req.get_header("Origin", default="")))
        if req.method == "OPTIONS":  # browsers ask so before they send a token
            origin = req.get_header("Origin", default="")
            reply = _preflight_reply("http://" in origin or "https://" in origin)
            self._service.count(reply)
            if seen is not None:
                seen.answered(reply.code, reply.status)
            resp.status = reply.status
            resp.content_type = "text/html; charset=ISO-8859-1"
            resp.data = reply.body
            return
        group = Group.PREDICT if req.method == "POST" else Group.STATUS
        if (refusal := self._refuse(group, req, resp)) is not None:
            self._service.count(refusal)
            if seen is not None:
                seen.answered(refusal.code, refusal.status)
            return
        reply = await self._exchange(target, req, seen)
        self._service.count(reply)
        if seen is not None:
            seen.answered(reply.code, reply.status)
        resp.status = reply.status
        if reply.retry_after is not None:
            resp.set_header("Retry-After", str(whole_seconds(reply.retry_after)))
        resp.content_type = _JSON
        resp.data = reply.body

    async def _exchange(self, target: str, req: falcon.asgi.Request, seen: Observation | None) -> Reply:
        """Take a request of the API on, receive it and answer it."""
        traffic = self._service.traffic(target)
        traffic.begin()
        received = sent = 0
        try:
            leave = self._service.admit(req.method, target)
            try:
                body = await read_body(req.stream, req.content_length, self._largest_body)
            except BaseException:
                leave()
                raise
            received = len(body)
            if seen is not None:
                seen.arrived(received)
            zipped = "gzip" in req.get_header("Content-Encoding", default="")
            reply = await self._answer(req.method, target, (body, zipped), leave, seen)
            sent = len(reply.body)
        except ServingError as error:
            reply = self._service.refused(target, error)
        except TooLargeError as error:
            reply = self._service.too_large(target, error)
        finally:
            traffic.end(received, sent)
        return reply

    def _refuse(self, group: Group, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> Reply | None:
        """Answer a client that may not ask for this, before its body is read; the reply, or None."""
        if self._guard is None:
            return None
        authorization = req.get_header("Authorization", default="")
        error = self._guard.refusal(group, authorization, req.get_header("X-API-Key", default=""))
        if error is None:
            return None
        reply = error_reply(error)
        resp.status = reply.status
        resp.content_type = _JSON
        resp.data = reply.body
        if error.code is Code.UNAUTHENTICATED:
            resp.set_header("WWW-Authenticate", "Bearer")
        return reply

    async def _answer(
        self,
        method: str,
        target: str,
        received: tuple[bytes, bool],
        leave: Callable[[], None],
        seen: Observation | None,
    ) -> Reply:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        work = functools.partial(self._work, method, target, *received, deadline)
        if seen is not None:
            work = functools.partial(seen.within, work)
        running = self._threads.submit(work)
        # Work that outlives its request keeps its place; work that never begins is cancelled.
        running.add_done_callback(lambda _: leave())
        try:
            reply, seconds, cpu_seconds = await asyncio.wait_for(asyncio.wrap_future(running), self._timeout)
        except TimeoutError:
            return self._service.timed_out(method, target)
        body, zipped = received
        if method == "POST" and not zipped:
            held = held_seconds(reply, cpu_seconds)
            stalled, computed = max(0.0, seconds - held), max(0.0, cpu_seconds - held)
            self._placement.ran(kind_of(target, body), stalled, computed, inline=False)
        return reply

    def _work(
        self, method: str, target: str, body: bytes, zipped: bool, deadline: float | None
    ) -> tuple[Reply, float, float]:
        """The answer, the seconds that it took, and those of them in which this thread computed."""
        start, cpu_start = time.perf_counter(), thread_seconds()
        try:
            content = unzip(body, self._max_gzip_ratio) if zipped else body
        except TooLargeError as error:
            reply = self._service.too_large(target, error)
        else:
            reply = self._service.answer(method, target, content, deadline)
        return reply, time.perf_counter() - start, thread_seconds() - cpu_start


def _preflight_reply(allowed: bool) -> Reply:
    return Reply(200, b"") if allowed else Reply(400, b"", Code.INVALID_ARGUMENT)


def _target(req: falcon.asgi.Request) -> str:
    """Path and query exactly as received."""
    raw: bytes = req.scope.get("raw_path") or req.scope["path"].encode()
    query: bytes = req.scope.get("query_string", b"")
    return (raw + b"?" + query if query else raw).decode("latin-1")


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
