"""Spans of requests by OpenTelemetry: one for each request, and one for each stage of it.

Its SDK reads the standard environment: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER,
OTEL_BSP_…, OTEL_EXPORTER_OTLP_…. Spans of stages are made once the request is over, from the times that its
Observation has. OpenTelemetry is imported here only, once tracing is asked for.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

from app import __version__
from app.errors import Code, ServingError
from app.telemetry.access_log import address
from app.telemetry.observation import Observation

_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SUPPORTED = "http/protobuf"
_ROUTE = re.compile(
    r"/v1/models(?P<model>/[^/:?]+)?(?P<version>/versions/[0-9]+)?(?P<label>/labels/[^/:?]+)?"
    r"(?P<rest>/metadata|:(?:predict|classify|regress))?(?:\?.*)?"
)
_METHODS = frozenset(("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE"))
# Of gRPC's codes, those that are the server's fault.
_SERVER_FAULTS = frozenset(
    (
        *(Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.UNIMPLEMENTED),
        *(Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS),
    )
)


class Tracing:
    """Makes the spans and sends them."""

    def __init__(self) -> None:
        """Read the environment; a thread of the SDK sends what is finished.

        Raises:
            ServingError: FAILED_PRECONDITION if the environment asks for another protocol than OTLP's
                http/protobuf.
        """
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        _check_protocol()
        name = OTELResourceDetector().detect().attributes.get(SERVICE_NAME, "ferry")
        resource = Resource.create({SERVICE_NAME: name, "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("ferry", __version__)
        self._extract = TraceContextTextMapPropagator().extract
        self._trace = trace

    def begin(self, seen: Observation) -> None:
        """Begin the span of a request, below the one that its headers name; the sampler decides now."""
        headers = {"traceparent": seen.traceparent, "tracestate": seen.tracestate}
        name, attributes = _described(seen)
        seen.span = self._tracer.start_span(
            name,
            self._extract({key: value for key, value in headers.items() if value}),
            kind=self._trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=seen.wall,
        )
        context = seen.span.get_span_context()
        if context.is_valid:  # not so with OTEL_SDK_DISABLED
            seen.trace_id = f"{context.trace_id:032x}"

    def end(self, seen: Observation) -> None:
        """Finish the span of a request that is over, with those of its stages."""
        span = seen.span
        if span.is_recording():
            parent = self._trace.set_span_in_context(span)
            for name, begin, end, attributes in stages(seen):
                stage = self._tracer.start_span(
                    name, parent, attributes=attributes, start_time=_wall(seen, begin)
                )
                stage.end(_wall(seen, end))
            span.set_attributes(_outcome(seen))
            if _is_fault(seen):
                span.set_status(self._trace.StatusCode.ERROR, seen.code.name)
        span.end(_wall(seen, seen.ended))

    def close(self, deadline: float) -> None:
        """Send what is left, until `deadline` (monotonic)."""
        # In a thread: a collector that hangs makes the SDK wait for long, whatever it is told.
        closing = threading.Thread(target=self._provider.shutdown, name="ferry-tracing-end", daemon=True)
        closing.start()
        closing.join(max(0.0, deadline - time.monotonic()))


def stages(seen: Observation) -> Iterator[tuple[str, int, int, dict[str, str]]]:
    """Name, begin, end and attributes of each stage that is known of a request."""
    yield "receive", seen.began, seen.received or seen.started or seen.ended, {}
    if seen.received and seen.started:
        yield "queue", seen.received, seen.started, {"ferry.queue": "threads"}
    queued_at, taken_at = seen.queued
    ran_at, ran_until = seen.ran
    if seen.started and (queued_at or ran_at):
        yield "decode", seen.started, queued_at or ran_at, {}
    if queued_at:
        yield "queue", queued_at, taken_at, {"ferry.queue": "batch"}
    if ran_at:
        yield "run", ran_at, ran_until, {}
        yield "encode", ran_until, seen.handled or seen.ended, {}


def route_of(path: str) -> str:
    """The path of a REST request with names in place of values; empty for one that is none of the API."""
    match = _ROUTE.fullmatch(path)
    if match is None:
        return ""
    parts = (
        "/v1/models",
        match["model"] and "/{model}",
        match["version"] and "/versions/{version}",
        match["label"] and "/labels/{label}",
        match["rest"],
    )
    return "".join(filter(None, parts))


def _described(seen: Observation) -> tuple[str, dict[str, Any]]:
    """The name of a request's span and what is known of it at the beginning."""
    host, _, port = address(seen.peer).rpartition(":")
    client = {"client.address": host.strip("[]"), "client.port": int(port)} if port.isdecimal() else {}
    if seen.entrypoint == "GRPC":
        service, _, method = seen.path.removeprefix("/").rpartition("/")
        return f"{service}/{method}", {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            **client,
        }
    method = seen.method if seen.method in _METHODS else "_OTHER"
    route = route_of(seen.path)
    path, _, query = seen.path.partition("?")
    attributes: dict[str, Any] = {
        "http.request.method": method,
        "url.scheme": "http",
        "url.path": path,
        **client,
    }
    if query:
        attributes["url.query"] = query
    if route:
        attributes["http.route"] = route
    shown = "HTTP" if method == "_OTHER" else method
    return f"{shown} {route}".rstrip(), attributes


def _outcome(seen: Observation) -> dict[str, Any]:
    if seen.entrypoint == "GRPC":
        found: dict[str, Any] = {"rpc.grpc.status_code": int(seen.code)}
        sizes = "rpc.request.size", "rpc.response.size"
    else:
        found = {"http.response.status_code": seen.status}
        sizes = "http.request.body.size", "http.response.body.size"
    found |= zip(sizes, (seen.request_bytes, seen.response_bytes), strict=True)
    if seen.model:
        found["ferry.model.name"] = seen.model
    if seen.version is not None:
        found["ferry.model.version"] = seen.version
        found["ferry.model.signature"] = seen.signature or "serving_default"
    if _is_fault(seen):
        found["error.type"] = seen.code.name if seen.entrypoint == "GRPC" else str(seen.status)
    return found


def _is_fault(seen: Observation) -> bool:
    return seen.code in _SERVER_FAULTS if seen.entrypoint == "GRPC" else seen.status >= 500


def _wall(seen: Observation, reading: int) -> int:
    """A reading of the clock as nanoseconds since the epoch."""
    return seen.wall + reading - seen.began


def _check_protocol() -> None:
    name = next(filter(os.environ.get, _PROTOCOLS), "")
    if name and os.environ[name] != _SUPPORTED:
        raise ServingError(
            Code.FAILED_PRECONDITION,
            f"--enable_tracing sends spans by OTLP over {_SUPPORTED} only; {name} is `{os.environ[name]}`. "
            "Unset it, and give the collector's HTTP port (4318 as a rule).",
        )
