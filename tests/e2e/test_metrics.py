"""The Prometheus page of a running server, and what a reload says of metrics."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
import requests
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2

from tests.conftest import StartServer
from tests.support.process import ServerProcess


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
    for path in ("/monitoring/prometheus/metrics", "/metrics"):
        assert requests.get(server.rest + path, timeout=30).status_code == 404
    answer = requests.get(server.rest + "/v1/metrics?x=1", timeout=30)
    assert (answer.status_code, answer.text) == (
        400,
        "Unexpected path: /v1/metrics?x=1. Should be /v1/metrics",
    )


def test_without_the_flag_there_is_no_page(shared_server: ServerProcess) -> None:
    url = f"{shared_server.rest}/monitoring/prometheus/metrics"
    assert requests.get(url, timeout=30).status_code == 404


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
