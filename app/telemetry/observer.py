"""Who wants to see requests: the access log, the tracer and the request logs, behind one switch.

A transport asks `active`, begins an observation, and ends it. What the lines and spans cost is paid by a
thread of its own; if requests end faster than it can tell of them, it tells of fewer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from app.options import Options
from app.telemetry.access_log import AccessLog
from app.telemetry.backlog import Backlog
from app.telemetry.metrics import Registry
from app.telemetry.observation import Observation, Recorders
from app.telemetry.tracing import Tracing

_MOST_WAITING = 20_000


class Observer:
    """Sees every request while somebody wants it to. Safe for any number of threads.

    Attributes:
        active: whether anybody does; changes with the configuration.
    """

    def __init__(
        self,
        access_log: AccessLog | None = None,
        tracing: Tracing | None = None,
        recorders: Recorders | None = None,
    ) -> None:
        """Tell these three; none for those that are off."""
        self._recorders = recorders
        self.active = False
        self._access_log = access_log
        self._tracing = tracing
        self._told = access_log is not None or tracing is not None
        self._backlog: Backlog[Observation] = Backlog("ferry-observer", self._tell, most=_MOST_WAITING)
        self._dropped = 0
        self._update()
        if recorders is not None:
            recorders.when_changed = self._update

    def _update(self) -> None:
        self.active = self._told or (self._recorders is not None and self._recorders.active)

    def add_metrics(self, registry: Registry) -> None:
        """Tell how many requests were dropped."""
        registry.view(
            "/ferry/observations_dropped",
            "counter",
            (),
            lambda: [((), self._dropped)],
            "Requests without access log line and spans: too many came at a time.",
        )

    def begin(
        self,
        entrypoint: str,
        method: str,
        path: str,
        *,
        peer: str = "",
        traceparent: str = "",
        tracestate: str = "",
    ) -> Observation:
        """A request whose headers are there; for the arguments see Observation."""
        seen = Observation(
            entrypoint,
            method,
            path,
            peer=peer,
            traceparent=traceparent,
            tracestate=tracestate,
            recorders=self._recorders,
        )
        if self._tracing is not None:
            self._tracing.begin(seen)
        return seen

    def end(self, seen: Observation, response_bytes: int) -> None:
        """The answer is on its way, with so many bytes of body or message."""
        seen.ended = time.perf_counter_ns()
        seen.response_bytes = response_bytes
        if self._told and not self._backlog.put(seen):
            self._dropped += 1  # two at once may count as one

    def _tell(self, observations: Sequence[Observation]) -> None:
        for seen in observations:
            if self._access_log is not None:
                self._access_log.write(seen)
            if self._tracing is not None:
                self._tracing.end(seen)

    def stop(self, deadline: float) -> None:
        """Tell, write and send what is left, until `deadline` (monotonic); no more requests end."""
        self._backlog.stop(deadline)
        if self._tracing is not None:
            self._tracing.close(deadline)
        if self._recorders is not None:
            self._recorders.close(deadline)


def from_options(options: Options, recorders: Recorders | None = None) -> Observer:
    """What the flags ask for.

    Raises:
        ServingError: FAILED_PRECONDITION if the environment asks for tracing in a way that is not there.
    """
    wanted = options.access_log
    access_log = AccessLog(errors_only=wanted == "errors") if wanted != "none" else None
    return Observer(access_log, Tracing() if options.enable_tracing else None, recorders)
