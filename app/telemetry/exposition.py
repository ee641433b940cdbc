"""The metrics page of Ferry: every metric under a well-formed name, in Prometheus' or OpenMetrics' form.

TensorFlow Serving's names begin with a colon, which Prometheus reserves; `prometheus.py` keeps them so. Here
`/tensorflow/serving/request_count` is `tensorflow_serving_request_count_total`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from app.telemetry.instruments import Distribution, Metric
from app.telemetry.metrics import Registry


class MetricsPage:
    """Renders some registries, this process, and the Python that runs it."""

    def __init__(self, registries: Sequence[Registry], *, processes: bool = True) -> None:
        """Read `registries` at each request; no metric may be in two of them.

        Args:
            registries: what to render.
            processes: False if what is known of this process is among them.
        """
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Metrics(registries))
        PlatformCollector(registry=self._registry)
        for collector in (ProcessCollector, GCCollector) if processes else ():
            collector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type, which the Accept header `accept` may choose."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Metrics(Collector):
    def __init__(self, registries: Iterable[Registry]) -> None:
        self._registries = tuple(registries)

    def collect(self) -> Iterator[Family]:
        for registry in self._registries:
            for metric in registry.metrics():
                cells = metric.cells()
                if cells or not metric.lazy:
                    yield _family(metric, cells)


def well_formed(name: str) -> str:
    """An internal name as Prometheus wants names: `/a/b.c` is `a_b_c`."""
    name = re.sub("[^a-zA-Z0-9_]", "_", name.strip("/"))
    return f"_{name}" if name[:1].isdigit() else name


def _family(metric: Metric, cells: Iterable[tuple[tuple[str, ...], float | Distribution]]) -> Family:
    name, text = well_formed(metric.name), metric.text or f"The metric {metric.name}."
    labels = [well_formed(label) for label in metric.labels]
    if metric.kind == "histogram":
        family = HistogramMetricFamily(name, text, labels=labels)
        for values, value in cells:
            assert isinstance(value, Distribution)
            family.add_metric(_texts(values), _buckets(value), value.sum)
        return family
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    scalars = kind(name, text, labels=labels)
    for values, value in cells:
        assert not isinstance(value, Distribution)
        scalars.add_metric(_texts(values), value)
    return scalars


def _buckets(value: Distribution) -> list[tuple[str, float]]:
    bounds = [*map(floatToGoString, value.bounds), "+Inf"]
    return list(zip(bounds, accumulate(value.counts), strict=True))


def _texts(values: Iterable[str]) -> list[str]:
    """Label values that can be written as UTF-8, which names of files need not be."""
    return [value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for value in values]
