"""What operators see of requests: JSON log, access log, spans at a collector, recorded requests."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
import tensorflow as tf
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tensorflow.python.lib.io._pywrap_record_io import RecordIterator
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    model_management_pb2,
    prediction_log_pb2,
    regression_pb2,
)

from app.options import TRANSPORTS
from tests.conformance import zoo
from tests.conftest import StartServer
from tests.support.process import ServerProcess, wait_until

PARENT = "b7ad6b7169203331"
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


class Collector:
    """An OTLP collector: takes what is exported over HTTP and remembers the spans."""

    def __init__(self) -> None:
        self.spans: list[tuple[dict[str, Any], Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    resource = attributes(of_resource.resource)
                    for scope in of_resource.scope_spans:
                        collector.spans += [(resource, span) for span in scope.spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def family(self, trace: str = "", **wanted: Any) -> list[Any]:
        """A server's span, by its trace or attributes, and its children in order of time; waits for them."""

        def found() -> list[Any]:
            spans = [span for _, span in self.spans]
            for span in spans:
                if (
                    trace in ("", span.trace_id.hex())
                    and span.kind == 2
                    and wanted.items() <= attributes(span).items()
                ):
                    children = [other for other in spans if other.parent_span_id == span.span_id]
                    if any(child.name == "encode" for child in children) or span.status.code == 2:
                        return [span, *sorted(children, key=lambda child: child.start_time_unix_nano)]
            return []

        return list(wait_until(found, f"a span with {wanted}"))


def attributes(of: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in of.attributes}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path with a model that predicts, classifies and regresses."""
    base_path = tmp_path_factory.mktemp("observed") / "model"
    zoo.build_half_plus_two(base_path / "1")
    return base_path


def config(base_path: Path, prefix: Path | None, rate: float = 1.0) -> Any:
    """A configuration of one model whose requests are recorded under `prefix`."""
    request = model_management_pb2.ReloadConfigRequest()
    one = request.config.model_config_list.config.add(name="model", base_path=str(base_path))
    one.model_platform = "tensorflow"
    if prefix is not None:
        one.logging_config.log_collector_config.type = "tfrecord"
        one.logging_config.log_collector_config.filename_prefix = str(prefix)
        one.logging_config.sampling_config.sampling_rate = rate
    return request


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(
    request: pytest.FixtureRequest,
    model: Path,
    collector: Collector,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServerProcess]:
    """A server with everything on that there is to see of requests."""
    directory = tmp_path_factory.mktemp("server")
    file = directory / "models.config"
    file.write_text(str(config(model, directory / "records" / "model").config))
    server = ServerProcess(
        model,
        directory / "server.log",
        flags=[
            f"--grpc_transport={request.param}",
            f"--model_config_file={file}",
            *("--log_format=json", "--access_log=all", "--enable_tracing", "--enable_batching"),
        ],
        environment={
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_SERVICE_NAME": f"ferry-{request.param}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        },
    )
    try:
        yield server.wait_ready()
    finally:
        server.kill()


def lines(server: ServerProcess) -> list[dict[str, Any]]:
    """The log, line by line; a line that is not an object fails."""
    whole = server.log[: server.log.rfind("\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]


def access(server: ServerProcess, **wanted: Any) -> dict[str, Any]:
    """The line of the request that has these fields; waits for it."""

    def found() -> dict[str, Any]:
        return next(
            (
                line
                for line in lines(server)
                if line["module"] == "app/telemetry/access_log.py" and wanted.items() <= line.items()
            ),
            {},
        )

    return dict(wait_until(found, f"an access line with {wanted}"))


def test_every_line_of_the_log_is_an_object(server: ServerProcess) -> None:
    found = lines(server)
    for line in found:
        assert line.keys() >= {"time", "severity", "module", "line", "message"}
    loaded = next(line for line in found if line["message"].startswith("Successfully loaded"))
    assert (loaded["model"], loaded["version"], loaded["severity"]) == ("model", 1, "INFO")
    reading = next(line for line in found if line["message"].startswith("Reading SavedModel from"))
    assert (reading["model"], reading["version"]) == ("model", 1)


def test_a_rest_request_has_a_line_and_spans(server: ServerProcess, collector: Collector) -> None:
    trace = f"{'1' * 31}{TRANSPORTS.index(transport(server))}"
    answer = requests.post(
        server.url(":predict"),
        json={"instances": [1.0, 2.0]},
        headers={"traceparent": f"00-{trace}-{PARENT}-01"},
        timeout=30,
    )
    assert answer.json() == {"predictions": [2.5, 3.0]}
    line = access(server, protocol="REST", trace_id=trace)
    assert (line["method"], line["path"], line["code"]) == ("POST", "/v1/models/model:predict", 200)
    assert (line["model"], line["version"], line["signature"]) == ("model", 1, "serving_default")
    assert line["request_bytes"] == len('{"instances": [1.0, 2.0]}')
    assert line["response_bytes"] == len(answer.content)
    assert 0 < line["latency_ms"] < 30_000
    assert line["peer"].startswith("127.0.0.1:")

    span, *children = collector.family(
        trace, **{"url.path": "/v1/models/model:predict", "http.response.status_code": 200}
    )
    assert span.name == "POST /v1/models/{model}:predict"
    assert [child.name for child in children] == ["receive", "queue", "decode", "queue", "run", "encode"]
    for before, after in zip([*children[:-1]], children[1:], strict=True):
        assert before.end_time_unix_nano <= after.start_time_unix_nano + 1_000_000
    assert span.start_time_unix_nano <= children[0].start_time_unix_nano
    assert children[-1].end_time_unix_nano <= span.end_time_unix_nano
    found = attributes(span)
    assert (found["ferry.model.name"], found["ferry.model.version"]) == ("model", 1)
    assert span.parent_span_id.hex() == PARENT
    services = {
        resource["service.name"] for resource, span in collector.spans if span.trace_id.hex() == trace
    }
    assert services == {f"ferry-{transport(server)}"}


def transport(server: ServerProcess) -> str:
    flags = [part for part in Path(f"/proc/{server.process.pid}/cmdline").read_text().split("\0") if part]
    return next(flag for flag in flags if flag.startswith("--grpc_transport=")).partition("=")[2]


def test_a_grpc_call_has_a_line_and_spans(server: ServerProcess, collector: Collector) -> None:
    trace = f"{'2' * 31}{TRANSPORTS.index(transport(server))}"
    request = server.predict_request([1.0, 2.0])
    metadata = (("traceparent", f"00-{trace}-{PARENT}-01"),)
    response = server.prediction.Predict(request, timeout=30, metadata=metadata)
    line = access(server, protocol="GRPC", trace_id=trace)
    assert line["path"] == "/tensorflow.serving.PredictionService/Predict"
    assert (line["model"], line["version"], line["signature"]) == ("model", 1, "serving_default")
    assert (line["code"], line["request_bytes"]) == ("OK", request.ByteSize())
    assert line["response_bytes"] == response.ByteSize()
    assert line["peer"].startswith("127.0.0.1:")

    span, *children = collector.family(trace, **{"rpc.method": "Predict", "rpc.grpc.status_code": 0})
    assert span.name == "tensorflow.serving.PredictionService/Predict"
    names = [child.name for child in children]
    assert names[0] == "receive"
    assert names[-4:] == ["decode", "queue", "run", "encode"]
    assert span.parent_span_id.hex() == PARENT


def test_failures_have_lines_with_what_is_known(server: ServerProcess, collector: Collector) -> None:
    requests.post(server.url("x:predict"), json={"instances": [1.0]}, timeout=30)
    line = access(server, protocol="REST", code=404, model="modelx")
    assert "version" not in line
    requests.get(f"{server.rest}/elsewhere", timeout=30)
    access(server, path="/elsewhere", code=404)
    request = server.predict_request([1.0])
    request.inputs["y"].CopyFrom(request.inputs["x"])
    with pytest.raises(grpc.RpcError):
        server.prediction.Predict(request, timeout=30)
    assert access(server, protocol="GRPC", code="INVALID_ARGUMENT")["version"] == 1
    with pytest.raises(grpc.RpcError):
        server.channel.unary_unary("/x.Y/Z", bytes, bytes)(b"", timeout=30)
    access(server, path="/x.Y/Z", code="UNIMPLEMENTED")
    span, *_ = collector.family("", **{"rpc.service": "x.Y", "rpc.grpc.status_code": 12})
    assert span.status.code == 2  # ERROR


def test_probes_have_no_lines(server: ServerProcess) -> None:
    assert requests.get(f"{server.rest}/readyz", timeout=30).status_code == 200
    requests.get(f"{server.rest}/v1/models/model/metadata", timeout=30)
    access(server, path="/v1/models/model/metadata", code=200)
    assert not [line for line in lines(server) if line.get("path") == "/readyz"]


def example(x: float) -> Any:
    """An Example with the feature x."""
    made = tf.train.Example()
    made.features.feature["x"].float_list.value.append(x)
    return made


def ask_everything(server: ServerProcess) -> None:
    """A request of each kind that is recorded, over both protocols, and one that fails."""
    server.prediction.Predict(server.predict_request([1.0]), timeout=30)
    classify = classification_pb2.ClassificationRequest()
    classify.model_spec.name = "model"
    classify.model_spec.signature_name = "classify_x_to_y"
    classify.input.example_list.examples.add().ParseFromString(example(1.0).SerializeToString())
    server.prediction.Classify(classify, timeout=30)
    regress = regression_pb2.RegressionRequest(input=classify.input)
    regress.model_spec.name = "model"
    regress.model_spec.signature_name = "regress_x_to_y"
    server.prediction.Regress(regress, timeout=30)
    multi = inference_pb2.MultiInferenceRequest(input=classify.input)
    for method, name in ((CLASSIFY, "classify_x_to_y"), (REGRESS, "regress_x_to_y")):
        task = multi.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = "model", name
    server.prediction.MultiInference(multi, timeout=30)
    assert server.predict([[7.0]]).status_code == 200
    for method in ("classify", "regress"):
        body = {"signature_name": f"{method}_x_to_y", "examples": [{"x": 3.0}]}
        assert requests.post(server.url(f":{method}"), json=body, timeout=30).status_code == 200
    assert server.predict("nonsense").status_code == 400


def records(directory: Path, name: str, pattern: str = "-*.tfrecord") -> list[Any]:
    """The PredictionLogs in the files with this prefix."""
    files = sorted(directory.glob(f"{name}{pattern}"))
    found = []
    for file in files:
        for record in RecordIterator(str(file), ""):
            found.append(prediction_log_pb2.PredictionLog.FromString(record))  # noqa: PERF401
    return found


def test_recorded_requests_can_be_replayed_and_reloads_change_what_is_recorded(
    server: ServerProcess, model: Path, start_server: StartServer, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second" / "made" / "requests"
    server.models.HandleReloadConfigRequest(config(model, first), timeout=60)
    ask_everything(server)
    assert server.models.HandleReloadConfigRequest(config(model, second), timeout=60).status.error_code == 0
    kinds = [log.WhichOneof("log_type") for log in records(tmp_path, "first")]
    assert kinds == [
        *("predict_log", "classify_log", "regress_log", "multi_inference_log"),
        *("predict_log", "classify_log", "regress_log"),
    ]
    recorded = records(tmp_path, "first")
    assert recorded[4].predict_log.request.inputs["x"].float_val[:] == [7.0]
    assert recorded[4].predict_log.response.outputs["y"].float_val[:] == [5.5]
    assert recorded[6].regress_log.response.result.regressions[0].value == 3.5
    for log in recorded:
        assert log.log_metadata.model_spec.version.value == 1
        assert log.log_metadata.sampling_config.sampling_rate == 1.0
        assert log.log_metadata.timestamp_secs > 1_700_000_000

    ask_everything(server)
    with pytest.raises(grpc.RpcError, match=r"must be between 0 and 1; was 2\."):
        server.models.HandleReloadConfigRequest(config(model, second, rate=2.0), timeout=60)
    server.models.HandleReloadConfigRequest(config(model, None), timeout=60)
    assert len(records(second.parent, "requests")) == 7
    ask_everything(server)
    page = requests.get(f"{server.rest}/metrics", timeout=30).text
    assert 'request_log_count_total{model_name="model",status_code="OK"}' in page
    assert len(records(second.parent, "requests")) == 7
    assert not list(tmp_path.rglob("*.open"))

    # A file as it was written is a warm-up file.
    base_path = tmp_path / "warm" / "model"
    zoo.build_half_plus_two(base_path / "1")
    (file,) = tmp_path.glob("first-*.tfrecord")
    warmup = base_path / "1" / "assets.extra" / "tf_serving_warmup_requests"
    warmup.parent.mkdir(exist_ok=True)
    file.rename(warmup)
    warm = start_server(base_path).wait_ready()
    assert (
        f"Finished reading warmup data for model at {warmup}. Number of warmup records read: 7." in warm.log
    )


def test_the_end_finishes_files_lines_and_spans(
    server: ServerProcess, model: Path, tmp_path: Path, collector: Collector
) -> None:
    server.models.HandleReloadConfigRequest(config(model, tmp_path / "last"), timeout=60)
    trace = f"{'3' * 31}{TRANSPORTS.index(transport(server))}"
    metadata = (("traceparent", f"00-{trace}-{PARENT}-01"),)
    server.prediction.Predict(server.predict_request([1.0]), timeout=30, metadata=metadata)
    server.terminate()
    assert server.wait_exit() == 0
    assert len(records(tmp_path, "last")) == 1
    assert any(line.get("trace_id") == trace for line in lines(server))
    assert trace in {span.trace_id.hex() for _, span in collector.spans}
