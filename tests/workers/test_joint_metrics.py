from __future__ import annotations

import copy

from app.telemetry import prometheus
from app.telemetry.exposition import MetricsPage
from app.telemetry.instruments import Counter
from app.telemetry.metrics import Registry
from app.workers.crew import Crew
from app.workers.joint_metrics import JointMetrics, process_metrics

REQUESTS = "/tensorflow/serving/request_count"


def worker(crew: Crew, index: int) -> tuple[Counter, Registry, MetricsPage, JointMetrics]:
    """One of `crew`, here in this process: what it counts, and both its pages."""
    own = copy.copy(crew)
    own.index = index
    registry, joint = Registry(), JointMetrics(own)
    requests = registry.counter(REQUESTS, "model_name", "status")
    joint.add_worker_metrics(registry)
    shown = joint.add(registry)
    return requests, shown, MetricsPage([shown, joint.add(process_metrics())], processes=False), joint


def samples(page: MetricsPage) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in page.render("")[0].decode().splitlines() if line[0] != "#")
    return {name: float(value) for name, _, value in lines}


def test_both_pages_of_any_worker_show_the_sums() -> None:
    crew = Crew(2)
    for index in (0, 1):
        requests, _, _, joint = worker(crew, index)
        requests.increment("m", "OK", by=3 + index)
        joint.total()  # as its thread does once a second
    _, shown, page, _ = worker(crew, 0)
    found = samples(page)
    assert found['tensorflow_serving_request_count_total{model_name="m",status="OK"}'] == 4, "0 is anew"
    assert found['ferry_worker_requests_total{worker="1"}'] == 4
    assert sum(name.startswith("ferry_worker_info") for name in found) == 2
    assert found["process_resident_memory_bytes"] > 2e7
    assert b':tensorflow:serving:request_count{model_name="m",status="OK"} 4\n' in prometheus.page(shown)


def test_a_sum_does_not_go_back_when_a_worker_dies() -> None:
    crew = Crew(2)
    requests, _, page, _ = worker(crew, 0)
    requests.increment("m", "OK", by=5)
    assert samples(page)['tensorflow_serving_request_count_total{model_name="m",status="OK"}'] == 5
    crew.lay_to_rest(0)
    _, _, page, _ = worker(crew, 1)
    # Both are this process, whose counts are at rest: the successor's own are added from its registry.
    assert samples(page)['tensorflow_serving_request_count_total{model_name="m",status="OK"}'] == 5
