from __future__ import annotations

import re
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from app.telemetry.exposition import MetricsPage, well_formed
from app.telemetry.metrics import Registry
from app.telemetry.serving_metrics import ServingMetrics


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.counter("/tensorflow/serving/request_count", "model_name").increment("m", by=3)
    registry.gauge("/a.b/c").set(to=7)
    registry.histogram("/h", (1.0, 2.5), "API").observe(2, "x")
    registry.histogram("/lazy", (1.0,), lazy=True)
    registry.view("/ferry/v", "gauge", ("l",), lambda: [(('\udcff"\n',), 1)], "What it means.")
    return registry


@pytest.mark.parametrize(
    ("internal", "name"),
    [("/tensorflow/serving/request_count", "tensorflow_serving_request_count"), ("/1/a-b", "_1_a_b")],
)
def test_names_are_well_formed(internal: str, name: str) -> None:
    assert well_formed(internal) == name


def test_the_page_in_prometheus_form(registry: Registry) -> None:
    body, content_type = MetricsPage([registry]).render("")
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    lines = body.decode().splitlines()
    for line in (
        "# TYPE tensorflow_serving_request_count_total counter",
        'tensorflow_serving_request_count_total{model_name="m"} 3.0',
        "a_b_c 7.0",
        'h_bucket{API="x",le="1.0"} 0.0',
        'h_bucket{API="x",le="2.5"} 1.0',
        'h_bucket{API="x",le="+Inf"} 1.0',
        'h_sum{API="x"} 2.0',
        "# HELP ferry_v What it means.",
        'ferry_v{l="\N{REPLACEMENT CHARACTER}\\"\\n"} 1.0',
    ):
        assert line in lines
    assert not [line for line in lines if "lazy" in line]


def test_openmetrics_when_asked_for(registry: Registry) -> None:
    body, content_type = MetricsPage([registry]).render(
        "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3"
    )
    assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    parse: Any = openmetrics.text_string_to_metric_families
    families = {family.name: family for family in parse(body.decode())}
    assert families["tensorflow_serving_request_count"].type == "counter"
    assert families["h"].type == "histogram"


def test_every_metric_of_the_server_has_a_name_that_prometheus_takes() -> None:
    metrics = ServingMetrics.make()
    page = MetricsPage((metrics.registry, metrics.ferry.registry))
    families = list(text_string_to_metric_families(page.render("")[0].decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    for name in names:
        assert re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name)
    # Of this process and of the Python that runs it.
    assert {"process_resident_memory_bytes", "process_open_fds", "python_info"} <= set(names)
