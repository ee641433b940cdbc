"""grpc.health.v1.Health, driven by the readiness of the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from grpc_health.v1 import health_pb2

from app.errors import Code, ServingError
from app.lifecycle.readiness import Condition, Readiness
from app.rpc.method import AnyMethod, Call, Method, PushMethod

SERVICE = "grpc.health.v1.Health"
# TensorFlow Serving knows its services by these names.
_SHORT_NAMES = ("ModelService", "PredictionService")

_Status = health_pb2.HealthCheckResponse


def health_methods(readiness: Readiness, services: Iterable[str]) -> Mapping[str, AnyMethod]:
    """Check and Watch, by path.

    A service is as healthy as the whole server. Watch ends with the drain: open calls would hold it up.

    Args:
        readiness: of the server.
        services: the full names that may be asked for, beside the empty one.
    """
    health = _Health(readiness, frozenset(("", *_SHORT_NAMES, *services)))
    return {
        f"/{SERVICE}/Check": Method(health_pb2.HealthCheckRequest, health.check, quick=True),
        f"/{SERVICE}/Watch": PushMethod(health_pb2.HealthCheckRequest, health.watch),
    }


class _Health:
    def __init__(self, readiness: Readiness, services: frozenset[str]) -> None:
        self._readiness = readiness
        self._services = services

    def check(self, request: Any, call: Call) -> Any:
        del call
        if request.service not in self._services:
            raise ServingError(Code.NOT_FOUND, "")
        return _answer(self._readiness.condition())

    def watch(self, request: Any, send: Callable[[Any], None]) -> Callable[[], None]:
        known = request.service in self._services

        def tell(condition: Condition) -> None:
            if known:
                send(_answer(condition))
            if condition is Condition.DRAINING:
                send(None)

        if not known:
            send(_Status(status=_Status.SERVICE_UNKNOWN))
        return self._readiness.subscribe(tell)


def _answer(condition: Condition) -> Any:
    status = _Status.SERVING if condition is Condition.READY else _Status.NOT_SERVING
    return _Status(status=status)
