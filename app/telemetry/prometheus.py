"""The Prometheus page, in the form in which TensorFlow Serving writes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate

from app.telemetry.instruments import Distribution, Labels, Metric
from app.telemetry.metrics import Registry


def page(registry: Registry) -> bytes:
    """The exposition of every metric in `registry`, sorted by internal name; UTF-8, lines end with LF."""
    lines = [line for metric in registry.metrics() for line in _lines(metric)]
    # A file name that is not UTF-8 comes back as the bytes that it is.
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def _lines(metric: Metric) -> Iterator[str]:
    cells = metric.cells()
    if metric.lazy and not cells:
        return
    name = _metric_name(metric.name)
    labels = [_label_name(label) for label in metric.labels]
    yield f"# TYPE {name} {metric.kind}"
    for values, value in cells:
        pairs = _pairs(labels, values)
        if isinstance(value, Distribution):
            yield from _histogram_lines(name, pairs, value)
        else:
            yield f"{name}{{{pairs}}} {value}"


def _histogram_lines(name: str, pairs: str, value: Distribution) -> Iterator[str]:
    before_bound = f"{pairs}," if pairs else ""
    bounds = [*(f"{bound:g}" for bound in value.bounds), "+Inf"]
    cumulative = list(accumulate(value.counts))
    for bound, count in zip(bounds, cumulative, strict=True):
        yield f'{name}_bucket{{{before_bound}le="{bound}"}} {count}'
    yield f"{name}_sum{{{pairs}}} {value.sum:g}"
    yield f"{name}_count{{{pairs}}} {cumulative[-1]}"


def _pairs(names: list[str], values: Labels) -> str:
    return ",".join(f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True))


def _escape(value: str) -> str:
    # A line feed stays as it is, for TensorFlow Serving leaves it so.
    return value.replace("\\", r"\\").replace('"', r"\"")


def _metric_name(internal: str) -> str:
    name = re.sub("[^a-zA-Z0-9_]", ":", internal)
    return f"_{name}" if name[:1].isdigit() else name


def _label_name(internal: str) -> str:
    name = re.sub("[^a-zA-Z0-9]", "_", internal)
    return f"_{name}" if name[:1].isdigit() else name
