"""The Prometheus page of a running server, and what a reload says of metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from google.protobuf import text_format
from prometheus_client.parser import text_string_to_metric_families
from tensorflow_serving.apis import model_management_pb2

from app.telemetry.exposition import well_formed
from app.telemetry.serving_metrics import ServingMetrics
from tests.conftest import StartServer
from tests.support import models
from tests.support.process import REPOSITORY, ServerProcess, wait_until


def monitoring(tmp_path: Path, text: str = "enable: true") -> str:
    file = tmp_path / "monitoring.config"
    file.write_text(f"prometheus_config {{ {text} }}")
    return f"--monitoring_config_file={file}"


def lines(server: ServerProcess, path: str = "/monitoring/prometheus/metrics") -> list[str]:
    answer = requests.get(server.rest + path, timeout=30)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain")
    assert answer.text.endswith("\n")
    return answer.text.splitlines()


def test_requests_over_both_ports_are_on_the_page(
    start_server: StartServer, half_plus_two: Path, tmp_path: Path
) -> None:
    server = start_server(half_plus_two, name="m", flags=[monitoring(tmp_path)]).wait_ready()
    before = lines(server)
    assert "# TYPE :tensorflow:serving:request_count counter" in before
    assert not [line for line in before if line.startswith(":tensorflow:serving:")]

    assert server.predict([1.0]).json() == {"predictions": [2.5]}
    server.prediction.Predict(server.predict_request([1.0]), timeout=30)
    requests.get(server.url(), timeout=30)
    requests.post(server.url(":explain"), timeout=30)
    request = server.predict_request([1.0])
    request.model_spec.name = "nope"
    with pytest.raises(grpc.RpcError):
        server.prediction.Predict(request, timeout=30)

    page = lines(server)
    serving = ":tensorflow:serving:"
    for line in (
        'request_count{model_name="",status="INVALID_ARGUMENT"} 1',
        'request_count{model_name="m",status="OK"} 3',
        'request_count{model_name="nope",status="NOT_FOUND"} 1',
        'request_latency_count{model_name="m",API="predict",entrypoint="REST"} 1',
        'request_latency_count{model_name="m",API="",entrypoint="REST"} 1',
        'request_latency_count{model_name="m",API="Predict",entrypoint="GRPC"} 1',
        'runtime_latency_bucket{model_name="m",API="Predict",runtime="TF1",le="+Inf"} 2',
        'runtime_latency_count{model_name="m",API="Predict",runtime="TF1"} 2',
    ):
        assert serving + line in page
    path = half_plus_two / "1"
    load = f':tensorflow:cc:saved_model:load_attempt_count{{model_path="{path}",status="success"}} 1'
    assert load in page


def test_the_page_can_be_elsewhere_and_is_off_unless_enabled(
    start_server: StartServer, half_plus_two: Path, tmp_path: Path
) -> None:
    flag = monitoring(tmp_path, 'enable: true path: "/v1/metrics"')
    server = start_server(half_plus_two, flags=[flag]).wait_ready()
    assert "# TYPE :tensorflow:core:graph_runs counter" in lines(server, "/v1/metrics")
    assert requests.get(server.rest + "/monitoring/prometheus/metrics", timeout=30).status_code == 404
    answer = requests.get(server.rest + "/v1/metrics?x=1", timeout=30)
    assert (answer.status_code, answer.text) == (
        400,
        "Unexpected path: /v1/metrics?x=1. Should be /v1/metrics",
    )


def test_without_the_flag_there_is_no_page(shared_server: ServerProcess) -> None:
    url = f"{shared_server.rest}/monitoring/prometheus/metrics"
    assert requests.get(url, timeout=30).status_code == 404


def ferry_samples(server: ServerProcess, path: str = "/metrics") -> dict[tuple[str, str], float]:
    """Every sample of the page under well-formed names: name and labels to value."""
    answer = requests.get(server.rest + path, timeout=30)
    assert (answer.status_code, answer.headers["content-type"]) == (
        200,
        "text/plain; version=0.0.4; charset=utf-8",
    )
    parse: Any = text_string_to_metric_families
    return {
        (
            sample.name,
            ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items())),
        ): sample.value
        for family in parse(answer.text)
        for sample in family.samples
    }


def test_the_page_with_well_formed_names_is_on_by_default(
    start_server: StartServer, half_plus_two: Path
) -> None:
    server = start_server(half_plus_two, name="m").wait_ready()
    body = b'{"instances": [1.0]}'
    for _ in range(3):
        sent = requests.post(server.url(":predict"), data=body, timeout=30)
    request = server.predict_request([1.0])
    response = server.prediction.Predict(request, timeout=30)
    samples = ferry_samples(server)
    expected = {
        ("tensorflow_serving_request_count_total", "model_name=m,status=OK"): 4,
        ("ferry_requests_in_flight", "api=predict,entrypoint=REST"): 0,
        ("ferry_request_bytes_count", "api=predict,entrypoint=REST"): 3,
        ("ferry_request_bytes_sum", "api=predict,entrypoint=REST"): 3 * len(body),
        ("ferry_response_bytes_sum", "api=predict,entrypoint=REST"): 3 * len(sent.content),
        ("ferry_request_bytes_sum", "api=Predict,entrypoint=GRPC"): request.ByteSize(),
        ("ferry_response_bytes_sum", "api=Predict,entrypoint=GRPC"): response.ByteSize(),
        ("ferry_model_version_state", "model_name=m,state=AVAILABLE,version=1"): 1,
        ("ferry_model_load_seconds_count", "model_name=m,status=OK"): 1,
        ("ferry_ready", ""): 1,
    }
    assert {key: samples.get(key) for key in expected} == expected
    for stage in ("decode", "run", "encode"):
        for labels, count in (("api=predict,entrypoint=REST", 3), ("api=Predict,entrypoint=GRPC", 1)):
            key = f"{labels},model_name=m,stage={stage}"
            assert samples["ferry_request_stage_seconds_count", key] == count
            assert samples["ferry_request_stage_seconds_sum", key] > 0
    assert samples["process_resident_memory_bytes", ""] > 1e8
    assert any(name == "ferry_build_info" for name, _ in samples)


def test_the_page_in_openmetrics_form_elsewhere_or_not_at_all(
    start_server: StartServer, half_plus_two: Path
) -> None:
    server, off = (
        start_server(half_plus_two, flags=[f"--metrics_path={path}"]) for path in ("/elsewhere", "")
    )
    server.wait_ready()
    accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
    answer = requests.get(server.rest + "/elsewhere", headers=accept, timeout=30)
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    assert requests.get(server.rest + "/metrics", timeout=30).status_code == 404
    assert requests.get(off.wait_ready().rest + "/metrics", timeout=30).status_code == 404


def test_tensorflow_servings_page_wins_over_ours(
    start_server: StartServer, half_plus_two: Path, tmp_path: Path
) -> None:
    flag = monitoring(tmp_path, 'enable: true path: "/metrics"')
    server = start_server(half_plus_two, flags=[flag]).wait_ready()
    page = lines(server, "/metrics")
    assert "# TYPE :tensorflow:core:graph_runs counter" in page
    assert not [line for line in page if "ferry" in line]


def test_a_load_that_fails_is_counted_with_its_code(start_server: StartServer, tmp_path: Path) -> None:
    models.save_half_plus(tmp_path / "m" / "1")
    server = start_server(tmp_path / "m", name="m", flags=["--max_num_load_retries=0"]).wait_ready()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty").rename(tmp_path / "m" / "2")

    def failed() -> bool:
        samples = ferry_samples(server)
        return samples.get(("ferry_model_load_seconds_count", "model_name=m,status=NOT_FOUND")) == 1

    wait_until(failed, "the load has failed")
    state = ("ferry_model_version_state", "model_name=m,state=END,version=2")
    wait_until(lambda: ferry_samples(server).get(state) == 1, "the version has ended")


def test_the_list_of_metrics_is_what_a_server_has(shared_server: ServerProcess) -> None:
    rows = (REPOSITORY / "docs" / "metrics.md").read_text().splitlines()
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows if row.startswith("| `")]
    listed = {name.strip("`"): (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in cells}
    assert len(listed) == len(cells), "no metric twice"

    shared_server.predict([1.0])
    page = requests.get(shared_server.rest + "/metrics", timeout=30).text
    parse: Any = text_string_to_metric_families
    labels = {
        f"{family.name}_total" if family.type == "counter" else family.name: {
            label for sample in family.samples for label in sample.labels if label != "le"
        }
        for family in parse(page)
    }
    found = {
        name: (kind, labels[name] or listed.get(name, ("", set()))[1])
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE)
    }
    # What has no sample yet, or is not on the page, has its labels all the same.
    metrics = ServingMetrics.make()
    for registry in (metrics.registry, metrics.ferry.registry):
        for metric in registry.metrics():
            name = well_formed(metric.name)
            name = f"{name.removesuffix('_total')}_total" if metric.kind == "counter" else name
            found[name] = (metric.kind, set(metric.labels))
    found["ferry_gpu_memory_bytes"] = ("gauge", {"device", "kind"})  # where there is a GPU
    assert listed == found


DASHBOARD = REPOSITORY / "compose" / "monitoring" / "grafana" / "dashboards" / "ferry.json"


def test_the_dashboard_asks_only_for_metrics_that_are_there(shared_server: ServerProcess) -> None:
    shared_server.predict([1.0])
    shared_server.prediction.Predict(shared_server.predict_request([1.0]), timeout=30)
    page = requests.get(shared_server.rest + "/metrics", timeout=30).text
    there = {re.split(r"[{ ]", line)[0] for line in page.splitlines() if not line.startswith("#")}
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE):
        there |= {f"{name}{end}" for end in ("_bucket", "_count", "_sum")} if kind == "histogram" else {name}
    # These have no cells, or are not listed, until a batch was run, or without a GPU.
    session = "tensorflow_serving_batching_session_"
    there |= {f"{session}{size}_batch_size_bucket" for size in ("input", "processed")}
    there |= {"ferry_gpu_memory_bytes"}
    queries = [
        target["expr"]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", ())
    ]
    names = {name for query in queries for name in re.findall(r"\b(?:ferry|tensorflow|process)_\w+", query)}
    assert names <= there
    session = "tensorflow_serving_batching_session_"
    assert names >= {
        *("ferry_ready", "ferry_build_info", "ferry_model_version_state", "ferry_gpu_memory_bytes"),
        *("ferry_request_stage_seconds_sum", "tensorflow_serving_runtime_latency_bucket"),
        *(f"{session}queuing_latency_bucket", f"{session}processed_batch_size_bucket"),
        *("ferry_requests_in_flight", "ferry_request_bytes_sum", "ferry_response_bytes_sum"),
        *("ferry_model_load_seconds_sum", "process_resident_memory_bytes", "process_open_fds"),
        *("ferry_requests_refused_total", "ferry_observations_dropped_total"),
        "tensorflow_serving_request_log_count_total",
    }


def test_a_bad_file_ends_the_start(start_server: StartServer, half_plus_two: Path, tmp_path: Path) -> None:
    server = start_server(half_plus_two, flags=[monitoring(tmp_path, "enabled: true")])
    assert server.wait_exit() == 255
    file = tmp_path / "monitoring.config"
    assert f"Failed to start server. Error: INVALID_ARGUMENT: Invalid protobuf file: '{file}'" in server.log
    assert "Error parsing text-format tensorflow.serving.MonitoringConfig: 1:" in server.log


def test_a_reload_tells_by_how_much_metrics_grew(start_server: StartServer, half_plus_two: Path) -> None:
    server = start_server(half_plus_two, name="a").wait_ready()
    server.predict([1.0])
    attempts, count = "/tensorflow/cc/saved_model/load_attempt_count", "/tensorflow/serving/request_count"
    model = f'base_path: "{half_plus_two}" model_platform: "tensorflow"'
    request = text_format.Parse(
        f"""
        config {{ model_config_list {{ config {{ name: "a" {model} }} config {{ name: "b" {model} }} }} }}
        metric_names: "{attempts}" metric_names: "{count}" metric_names: "/unknown"
        """,
        model_management_pb2.ReloadConfigRequest(),
    )
    response = server.models.HandleReloadConfigRequest(request, timeout=60)
    increases = {metric.name: metric.int64_value_increase for metric in response.metric}
    assert increases == {attempts: 1, count: 0, "/unknown": 0}
