"""Requests of both ports that meet in one batch, and what stops a server with batching from starting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from app.options import TRANSPORTS
from tests.conftest import StartServer
from tests.support import models
from tests.support.process import ServerProcess, wait_until

# A batch waits until it is full: when it runs does not depend on the machine.
LONG = "batch_timeout_micros { value: 3600000000 }"
BATCHING = "--enable_batching"
COLD = "--enable_model_warmup=false"


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path with the model of `save_batch_probe`. Not to be changed by a test."""
    base_path = tmp_path_factory.mktemp("probe")
    models.save_batch_probe(base_path / "1")
    return base_path


def parameters(tmp_path: Path, text: str) -> str:
    file = tmp_path / "batching.config"
    file.write_text(text)
    return f"--batching_parameters_file={file}"


def post(server: ServerProcess, method: str, **body: Any) -> requests.Response:
    return requests.post(server.url(f":{method}"), json=body, timeout=60)


def grpc_rows(server: ServerProcess, *values: float) -> list[int]:
    return list(server.prediction.Predict(server.predict_request(values), timeout=60).outputs["n"].int64_val)


def page(server: ServerProcess) -> str:
    return requests.get(f"{server.rest}/monitoring/prometheus/metrics", timeout=30).text


def together(*calls: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(60) for future in [pool.submit(call) for call in calls]]


def test_requests_of_both_ports_meet_in_one_batch(
    start_server: StartServer, probe: Path, tmp_path: Path
) -> None:
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    flags = [BATCHING, COLD, parameters(tmp_path, f"max_batch_size {{ value: 6 }} {LONG}")]
    server = start_server(probe, flags=[*flags, f"--monitoring_config_file={monitoring}"]).wait_ready()
    assert "Wrapping session to perform batch processing" in server.log
    assert "has no effect" not in server.log

    metric = ":tensorflow:serving:batching_session:"
    assert f"# TYPE {metric}wrapped_run_count counter" in page(server)
    assert f"{metric}input_batch_size" not in page(server)

    rows, columns, grpc = together(
        lambda: post(server, "predict", instances=[1.0]).json(),
        lambda: post(server, "predict", inputs={"x": [2.0, 3.0]}).json(),
        lambda: grpc_rows(server, 4.0, 5.0, 6.0),
    )
    assert rows == {"predictions": [{"y": 2.0, "n": 6}]}
    assert columns == {"outputs": {"y": [3.0, 4.0], "n": [6, 6]}}
    assert grpc == [6, 6, 6]

    # An example for each row; with a queue of their own.
    first, second = together(
        *(
            lambda count=count: post(server, "regress", signature_name="regress", examples=[{"a": 1}] * count)
            for count in (2, 4)
        )
    )
    assert (first.json(), second.json()) == ({"results": [6.0] * 2}, {"results": [6.0] * 4})

    lines = page(server).splitlines()
    for line in (
        f"{metric}wrapped_run_count{{}} 2",
        f"{metric}input_batch_size_count{{}} 5",
        f"{metric}input_batch_size_sum{{}} 12",
        f"{metric}processed_batch_size_sum{{}} 12",
        f'{metric}padding_size_count{{execution_batch_size="6"}} 2',
        f'{metric}queuing_latency_count{{thread_pool_name=""}} 5',
    ):
        assert line in lines, [line for line in lines if line.startswith(metric) and "bucket" not in line]


def test_a_full_queue_answers_503_and_a_task_that_is_too_large_400(
    start_server: StartServer, probe: Path, tmp_path: Path
) -> None:
    text = f"max_batch_size {{ value: 4 }} max_enqueued_batches {{ value: 1 }} {LONG}"
    server = start_server(probe, flags=[BATCHING, COLD, parameters(tmp_path, text)]).wait_ready()
    answer = post(server, "predict", instances=[1.0] * 5)
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "Task size 5 is larger than maximum input batch size 4"},
    )
    with ThreadPoolExecutor(2) as pool:
        # Whichever comes second does not fit.
        calls = [pool.submit(post, server, "predict", instances=[1.0] * 3) for _ in range(2)]
        refused = wait_until(lambda: [call for call in calls if call.done()], "one is refused")[0].result()
        assert (refused.status_code, refused.json()) == (
            503,
            {
                "error": "The batch scheduling queue to which this task was submitted is full; currently 1 "
                "batches enqueued and max_enqueued_batches is 1"
            },
        )
        assert post(server, "predict", instances=[1.0]).json() == {"predictions": [{"y": 2.0, "n": 4}]}
        assert sorted(call.result(60).status_code for call in calls) == [200, 503]


def test_one_bad_request_does_not_fail_its_neighbour(
    start_server: StartServer, probe: Path, tmp_path: Path
) -> None:
    flag = parameters(tmp_path, f"max_batch_size {{ value: 2 }} {LONG}")
    server = start_server(probe, flags=[BATCHING, COLD, flag]).wait_ready()
    good, bad = together(
        lambda: post(server, "predict", instances=[1.0]), lambda: post(server, "predict", instances=[-7.0])
    )
    assert good.json() == {"predictions": [{"y": 2.0, "n": 1}]}
    assert bad.status_code == 400
    assert "[-7]" in bad.json()["error"]


def test_a_version_with_parameters_of_its_own(start_server: StartServer, tmp_path: Path) -> None:
    path = models.save_batch_probe(tmp_path / "model" / "1")
    flags = [BATCHING, COLD, "--enable_per_model_batching_parameters"]
    server = start_server(tmp_path / "model", flags=flags).wait_ready()
    assert "Wrapping session" not in server.log
    # An output without dimensions tells whether a version is batched.
    scalar = {"signature_name": "scalar", "inputs": {"x": [1.0, 2.0]}}
    assert post(server, "predict", **scalar).json() == {"outputs": {"y": [1.0, 2.0], "total": 3.0}}

    staged = tmp_path / "staged"
    path.rename(staged)
    (staged / "batching_params.pbtxt").write_text("max_batch_size { value: 3 }")
    staged.rename(tmp_path / "model" / "2")
    wait_until(lambda: server.states().get(2) == "AVAILABLE", "version 2 is served")
    assert "Wrapping session to perform batch processing" in server.log
    assert post(server, "predict", **scalar).json() == {"error": "Batched output tensor has 0 dimensions"}
    answer = post(server, "predict", instances=[1.0] * 4)
    assert answer.json() == {"error": "Task size 4 is larger than maximum input batch size 3"}


def test_warm_up_goes_through_batches(start_server: StartServer, tmp_path: Path) -> None:
    models.save_batch_probe(tmp_path / "model" / "1")
    server = start_server(tmp_path / "model", flags=[BATCHING]).wait_ready()
    # What cannot be batched says so when it is warmed up.
    assert "Signature constant stays cold: INVALID_ARGUMENT: Batching Run() must have" in server.log
    assert "Signature pair warmed up" in server.log


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_when_the_server_drains_no_request_waits_for_company(
    start_server: StartServer, probe: Path, tmp_path: Path, transport: str
) -> None:
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    flags = [BATCHING, COLD, parameters(tmp_path, LONG), f"--monitoring_config_file={monitoring}"]
    server = start_server(probe, flags=[*flags, f"--grpc_transport={transport}"]).wait_ready()
    rows: list[int] = []
    waiting = threading.Thread(target=lambda: rows.extend(grpc_rows(server, 1.0, 2.0)))
    waiting.start()
    wait_until(lambda: "batching_session:input_batch_size_count{} 1" in page(server), "it waits")
    server.terminate()
    assert server.wait_exit() == 0
    waiting.join(60)
    assert rows == [2, 2]


def test_a_bad_file_ends_the_start(start_server: StartServer, half_plus_two: Path, tmp_path: Path) -> None:
    flag = parameters(tmp_path, "max_batch_size: 4")
    server = start_server(half_plus_two, flags=[BATCHING, flag])
    assert server.wait_exit() == 255
    message = f"INVALID_ARGUMENT: Invalid protobuf file: '{tmp_path / 'batching.config'}'"
    assert f"Failed to start server. Error: {message}\n" in server.log
    assert "Loading servable version" not in server.log


def test_parameters_that_a_model_cannot_be_batched_by_fail_its_load(
    start_server: StartServer, half_plus_two: Path, tmp_path: Path
) -> None:
    flag = parameters(tmp_path, "max_batch_size { value: 0 }")
    server = start_server(half_plus_two, flags=[BATCHING, flag, "--max_num_load_retries=0"])
    assert server.wait_exit() == 255
    assert "due to error: INVALID_ARGUMENT: input_batch_size_limit must be positive; was 0}, }" in server.log


def test_adaptive_batching_answers_as_without_batching(start_server: StartServer, probe: Path) -> None:
    server = start_server(probe, flags=["--adaptive_batching", "--batching_latency_target_in_ms=50"])
    server.wait_ready()

    def predict(number: int) -> bool:
        a, b = [float(number), 1.0], [2.0, float(number)]
        answer = post(server, "predict", signature_name="pair", inputs={"a": a, "b": b}).json()
        return bool(answer["outputs"]["y"] == [number + 2.0, number + 1.0])

    assert all(together(*[partial(predict, number) for number in range(64)]))
    alone = post(server, "predict", signature_name="scalar", inputs={"x": [1.0, 2.0]}).json()
    assert alone["outputs"]["total"] == 3.0
    assert grpc_rows(server, 1.0, 2.0, 3.0) == [3, 3, 3]
    failed = post(server, "predict", inputs={"x": [-1.0]})
    assert (failed.status_code, "negative" in failed.json()["error"]) == (400, True)
