"""One set of metrics: what this worker counts, what the others count, and what the dead had counted.

Every worker tells what it has counted once a second and before it shows anything. So whoever is asked, and
whoever dies in between, a sum never goes back.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from functools import partial

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.registry import Collector

from app.telemetry.instruments import Cells, Labels, Metric
from app.telemetry.metrics import Registry, View
from app.workers.counts import Counts
from app.workers.crew import Crew

logger = logging.getLogger(__name__)

_TELL_SECONDS = 1.0
_REQUESTS = "/tensorflow/serving/request_count"
# What tells the workers apart does not add up.
_OF_ONE = "/ferry/worker_"


class JointMetrics:
    """Adds up. Safe for any number of threads."""

    def __init__(self, crew: Crew) -> None:
        """Add up what `count` is told of."""
        self._crew = crew
        self._registries: list[Registry] = []
        self._lock = threading.Lock()
        self._complained = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ferry-counts", daemon=True)

    def add(self, registry: Registry) -> JointRegistry:
        """Count what is in `registry`, too, and show it with that of the others."""
        self._registries.append(registry)
        return JointRegistry(registry, self)

    def add_worker_metrics(self, registry: Registry) -> None:
        """Add metrics that tell one worker from another."""
        registry.view(
            "/ferry/worker_info",
            "gauge",
            ("worker", "pid"),
            lambda: [((str(index), str(pid)), 1) for index, (pid, _) in self._counted().items()],
            "1 for each worker that runs, with its process.",
        )
        registry.view(
            "/ferry/worker_requests",
            "counter",
            ("worker",),
            self._requests,
            "Requests that each worker has answered since it was started.",
        )

    def start(self) -> None:
        """Tell the others from time to time, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Tell them for the last time."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._tell()

    def total(self) -> Counts:
        """What was ever counted by anybody; gauges are those of this worker."""
        own = self._tell()
        found, past = self._crew.counted()
        for index, (_, counts) in sorted(found.items()):
            if index != self._crew.index:
                own = own.plus(counts)
        return own.plus(past)

    def _requests(self) -> Cells:
        found = self._counted()
        return [
            ((str(index),), sum(value for _, value in counts.cells(_REQUESTS) if isinstance(value, int)))
            for index, (_, counts) in found.items()
        ]

    def _counted(self) -> dict[int, tuple[int, Counts]]:
        return dict(sorted(self._crew.counted()[0].items()))

    def _tell(self) -> Counts:
        with self._lock:
            counts = Counts.of(self._metrics())
            if not self._crew.count_own(counts) and not self._complained:
                self._complained = True
                logger.error("This worker has more metrics than it can tell the other workers.")
            return counts

    def _metrics(self) -> Iterable[Metric]:
        return (
            metric
            for registry in self._registries
            for metric in registry.metrics()
            if not metric.name.startswith(_OF_ONE)
        )

    def _run(self) -> None:
        while not self._stopping.wait(_TELL_SECONDS):
            self._tell()


class JointRegistry(Registry):
    """The metrics of a registry with everybody's cells."""

    def __init__(self, own: Registry, joint: JointMetrics) -> None:
        """Made by `JointMetrics.add`."""
        super().__init__()
        self._own = own
        self._joint = joint

    def metrics(self) -> list[Metric]:
        """All of them, sorted by internal name."""
        total = self._joint.total()
        return [_with(total, metric) for metric in self._own.metrics()]


def _with(total: Counts, metric: Metric) -> Metric:
    if metric.name.startswith(_OF_ONE):
        return metric
    read = partial(total.cells, metric.name)
    return View(metric.name, metric.kind, metric.labels, read, metric.text, metric.lazy)


def process_metrics() -> Registry:
    """What prometheus_client knows of this process, in a registry."""
    collectors = CollectorRegistry(auto_describe=False)
    registry = Registry()
    for collector in (ProcessCollector(registry=collectors), GCCollector(registry=collectors)):
        for family in collector.collect():
            labels = tuple(sorted({label for sample in family.samples for label in sample.labels}))
            read = partial(_cells, collector, family.name, labels)
            registry.view(family.name, family.type, labels, read, f"{family.documentation} Of all workers.")
    return registry


def _cells(collector: Collector, name: str, labels: Labels) -> Cells:
    return [
        (tuple(sample.labels[label] for label in labels), sample.value)
        for family in collector.collect()
        if family.name == name
        for sample in family.samples
    ]
