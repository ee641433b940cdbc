"""The times of requests that succeeded, kept as clock readings and counted many at a time.

To count a request takes a microsecond and, what is more, a lot of code, which is no longer in a processor's
caches when requests are rare. To keep four numbers takes a tenth of that.
"""

from __future__ import annotations

import threading

from app.telemetry.serving_metrics import ServingMetrics

_LATER = 64


class RequestTimes:
    """Of the requests to one model by one API and entrypoint. Safe for any number of threads."""

    def __init__(self, metrics: ServingMetrics, model: str, api: str, entrypoint: str) -> None:
        """Count in `metrics`, whenever they are read."""
        self._model = model
        self._requests = metrics.request_count
        self._request = metrics.request_micros.series(model, api, entrypoint)
        self._run = metrics.runtime_micros.series(model, api, "TF1")
        self._stages = metrics.ferry.stages.series(model, api, entrypoint)
        self._later: list[tuple[int, int, int, int]] = []
        self._put = self._later.append
        self._lock = threading.Lock()
        for metric in (metrics.request_count, metrics.request_micros, metrics.runtime_micros):
            metric.sources.append(self.settle)
        metrics.ferry.stages.sources.append(self.settle)

    def add(self, start: int, run_start: int, run_end: int, end: int) -> None:
        """Keep a request, by readings of `time.perf_counter_ns`: of itself, and of its run."""
        self._put((start, run_start, run_end, end))  # no other thread interrupts it
        if len(self._later) >= _LATER:
            self.settle()

    def settle(self) -> None:
        """Count what was kept."""
        with self._lock:
            taken = self._later[:]
            del self._later[: len(taken)]
            if taken:
                self._requests.increment(self._model, "OK", by=len(taken))
            for start, run_start, run_end, end in taken:
                self._request((end - start) // 1000)
                self._run((run_end - run_start) // 1000)
                self._stages((run_start - start, run_end - run_start, end - run_end))
