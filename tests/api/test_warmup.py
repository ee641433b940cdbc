from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, prediction_log_pb2

from app.api.warmup import MAX_RECORDS, replay_warmup_file
from app.engine.model import Model
from app.errors import Code, ServingError
from app.telemetry.instruments import Distribution
from app.telemetry.serving_metrics import ServingMetrics
from tests.api.conftest import load
from tests.support.models import save_counting, write_warmup

VERIFY = ". Please verify your warmup data is in TFRecord format."


@pytest.fixture(scope="module")
def counting_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_counting(tmp_path_factory.mktemp("counting") / "1")


@pytest.fixture
def counting(counting_path: Path) -> Iterator[Model]:
    """The model of `save_counting`, which has not run yet. Its warm-up files lie elsewhere."""
    model = load(counting_path)
    yield model
    model.close()


def runs(model: Model) -> dict[str, int]:
    return {name: int(value) for name, value in model.run(model.signatures["count"], {}).items()}


def log_record() -> Any:
    return prediction_log_pb2.PredictionLog()


def predict_log(*values: float, signature: str = "", alias: str = "x") -> Any:
    log = log_record()
    log.predict_log.request.model_spec.signature_name = signature
    log.predict_log.request.inputs[alias].CopyFrom(tf.make_tensor_proto(values, tf.float32))
    return log


def fill(message: Any) -> None:
    message.example_list.examples.add().features.feature["x"].float_list.value.append(1.0)


def classify_log(signature: str = "classify") -> Any:
    log = log_record()
    log.classify_log.request.model_spec.signature_name = signature
    fill(log.classify_log.request.input)
    return log


def regress_log() -> Any:
    log = log_record()
    log.regress_log.request.model_spec.signature_name = "regress"
    fill(log.regress_log.request.input)
    return log


def multi_inference_log(*names: str) -> Any:
    log = log_record()
    request = log.multi_inference_log.request
    for method, name in zip(("classify", "regress"), names, strict=True):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name = name
        task.model_spec.signature_name = method
    fill(request.input)
    return log


def fails(model: Model, path: Path, **arguments: Any) -> ServingError:
    with pytest.raises(ServingError) as raised:
        replay_warmup_file(model, 1, str(path), ServingMetrics.make(), **arguments)
    return raised.value


def test_without_a_file_nothing_runs(
    counting: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app")
    assert replay_warmup_file(counting, 1, str(tmp_path), ServingMetrics.make()) is False
    assert caplog.messages == [
        f"No warmup data file found at {tmp_path}/assets.extra/tf_serving_warmup_requests"
    ]
    assert runs(counting) == {"predict": 0, "classify": 0, "regress": 0}


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (predict_log(1.0, 2.0), {"predict": 1, "classify": 0, "regress": 0}),
        (classify_log(), {"predict": 0, "classify": 1, "regress": 0}),
        (regress_log(), {"predict": 0, "classify": 0, "regress": 1}),
        (multi_inference_log("m", "m"), {"predict": 0, "classify": 1, "regress": 1}),
    ],
    ids=["predict", "classify", "regress", "multi_inference"],
)
def test_each_kind_of_request_is_replayed(
    counting: Model, tmp_path: Path, log: Any, expected: dict[str, int]
) -> None:
    write_warmup(tmp_path, log)
    assert replay_warmup_file(counting, 1, str(tmp_path), ServingMetrics.make()) is True
    assert runs(counting) == expected


def test_the_log_says_what_was_read(
    counting: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_warmup(tmp_path, predict_log(1.0), regress_log())
    caplog.set_level(logging.INFO, "app")
    replay_warmup_file(counting, 1, str(tmp_path), ServingMetrics.make(), repetitions=2)
    first, last = caplog.messages
    assert first == (
        f"Starting to read warmup data for model at {file} with model-warmup-options "
        "num_request_iterations { value: 2 }"
    )
    head, _, microseconds = last.partition("Elapsed time (microseconds): ")
    assert head == (f"Finished reading warmup data for model at {file}. Number of warmup records read: 2. ")
    assert microseconds.removesuffix(".").isdigit()


def test_the_metrics_tell_of_the_file_and_of_its_runs(counting: Model, tmp_path: Path) -> None:
    log = predict_log(1.0)
    log.predict_log.request.model_spec.name = "recorded"
    write_warmup(tmp_path, log, regress_log())
    metrics = ServingMetrics.make()
    replay_warmup_file(counting, 1, str(tmp_path), metrics, repetitions=2)
    assert metrics.warmup_records.cells() == [((str(tmp_path), "OK"), 2)]
    ((labels, _),) = metrics.warmup_micros.cells()
    assert labels == (str(tmp_path), "OK")
    observed = {}
    for labels, found in metrics.runtime_micros.cells():
        assert isinstance(found, Distribution)
        observed[labels] = sum(found.counts)
    assert observed == {("recorded", "Predict", "TF1"): 2, ("", "Regress", "TF1"): 2}
    assert metrics.request_count.cells() == []


def test_a_file_that_cannot_be_read_is_counted_with_the_error(counting: Model, tmp_path: Path) -> None:
    file = write_warmup(tmp_path, predict_log(1.0), predict_log(2.0))
    file.write_bytes(file.read_bytes()[:-1])
    metrics = ServingMetrics.make()
    with pytest.raises(ServingError) as raised:
        replay_warmup_file(counting, 1, str(tmp_path), metrics)
    assert metrics.warmup_records.cells() == [((str(tmp_path), str(raised.value)), 1)]


def test_a_request_that_fails_ends_the_replay_without_a_count(counting: Model, tmp_path: Path) -> None:
    write_warmup(tmp_path, predict_log(1.0), predict_log(1.0, signature="nope"))
    metrics = ServingMetrics.make()
    with pytest.raises(ServingError):
        replay_warmup_file(counting, 1, str(tmp_path), metrics)
    assert metrics.warmup_records.cells() == []


def test_a_record_without_a_request_is_counted_and_skipped(
    counting: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    only_metadata = log_record()
    only_metadata.log_metadata.model_spec.name = "m"
    write_warmup(tmp_path, b"", only_metadata, predict_log(1.0))
    caplog.set_level(logging.INFO, "app")
    assert replay_warmup_file(counting, 1, str(tmp_path), ServingMetrics.make()) is True
    assert "Number of warmup records read: 3." in caplog.messages[-1]
    assert runs(counting)["predict"] == 1


@pytest.mark.parametrize(("kind", "number"), [("predict_streamed_log", 7), ("session_run_log", 5)])
def test_other_kinds_of_requests_are_refused(counting: Model, tmp_path: Path, kind: str, number: int) -> None:
    log = log_record()
    getattr(log, kind).SetInParent()
    write_warmup(tmp_path, log)
    error = fails(counting, tmp_path)
    assert (error.code, error.message) == (Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")


@pytest.mark.parametrize(("repetitions", "expected"), [(-1, 2), (0, 2), (1, 2), (3, 6)])
def test_each_record_is_repeated(counting: Model, tmp_path: Path, repetitions: int, expected: int) -> None:
    write_warmup(tmp_path, predict_log(1.0), predict_log(2.0))
    replay_warmup_file(counting, 1, str(tmp_path), ServingMetrics.make(), repetitions=repetitions)
    assert runs(counting)["predict"] == expected


def test_a_thousand_records_are_replayed(counting: Model, tmp_path: Path) -> None:
    write_warmup(tmp_path, *[predict_log(1.0)] * MAX_RECORDS)
    assert MAX_RECORDS == 1000
    assert replay_warmup_file(counting, 1, str(tmp_path), ServingMetrics.make()) is True
    assert runs(counting)["predict"] == 1000


def test_one_record_more_fails_after_it_ran(counting: Model, tmp_path: Path) -> None:
    file = write_warmup(tmp_path, *[predict_log(1.0)] * 1002)
    error = fails(counting, tmp_path)
    assert error.code is Code.INVALID_ARGUMENT
    assert error.message == f"Number of warmup records exceeds the maximum (1000) at {file}"
    assert runs(counting)["predict"] == 1001


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        (b"no such thing", "no such thing"),
        (b"\xff\xfe", r"\xff\xfe"),
        (b"n" * 5000, "n" * 1024 + "...TRUNCATED"),
    ],
    ids=["text", "bytes", "long"],
)
def test_what_is_no_prediction_log_is_refused(
    counting: Model, tmp_path: Path, record: bytes, shown: str
) -> None:
    file = write_warmup(tmp_path, predict_log(1.0), record)
    error = fails(counting, tmp_path)
    assert error.code is Code.INVALID_ARGUMENT
    assert error.message == f"Failed to parse warmup record: {shown} from {file}"
    assert runs(counting)["predict"] == 1


def test_a_file_that_is_no_tfrecord_is_refused(counting: Model, tmp_path: Path) -> None:
    write_warmup(tmp_path).write_text('{"instances": [1.0, 2.0, 5.0]}')
    error = fails(counting, tmp_path)
    assert error.code is Code.DATA_LOSS
    assert error.message == f"corrupted record at 0 (Is this even a TFRecord file?){VERIFY}"


def test_a_truncated_file_is_refused_where_it_ends(counting: Model, tmp_path: Path) -> None:
    first = len(write_warmup(tmp_path, predict_log(1.0)).read_bytes())
    file = write_warmup(tmp_path, predict_log(1.0), predict_log(2.0))
    file.write_bytes(file.read_bytes()[:-1])
    error = fails(counting, tmp_path)
    assert error.code is Code.DATA_LOSS
    assert error.message.startswith(f"truncated record at {first}'")
    assert error.message.endswith(VERIFY)
    assert runs(counting)["predict"] == 1


def test_damage_within_a_record_is_found(counting: Model, tmp_path: Path) -> None:
    file = write_warmup(tmp_path, predict_log(1.0))
    content = bytearray(file.read_bytes())
    content[14] ^= 1
    file.write_bytes(content)
    error = fails(counting, tmp_path)
    assert error.code is Code.DATA_LOSS
    assert error.message.startswith("corrupted record at ")
    assert error.message.endswith(VERIFY)
    assert runs(counting)["predict"] == 0


def test_an_empty_file_is_read_to_its_end(
    counting: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_warmup(tmp_path)
    caplog.set_level(logging.INFO, "app")
    assert replay_warmup_file(counting, 1, str(tmp_path), ServingMetrics.make()) is True
    assert "Number of warmup records read: 0." in caplog.messages[-1]


def test_a_directory_in_its_place_is_no_data_loss(counting: Model, tmp_path: Path) -> None:
    file = write_warmup(tmp_path)
    file.unlink()
    file.mkdir()
    error = fails(counting, tmp_path)
    assert (error.code, error.message) == (Code.FAILED_PRECONDITION, f"{file}; Is a directory")


def test_a_request_that_fails_gives_its_own_error(
    counting: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_warmup(tmp_path, predict_log(1.0), predict_log(1.0, signature="nope"), predict_log(1.0))
    error = fails(counting, tmp_path)
    assert error.code is Code.FAILED_PRECONDITION
    assert error.message == 'Serving signature key "nope" not found.'
    assert runs(counting)["predict"] == 1
    assert f"Record 2 of the warm-up file {file} fails, and the load with it." in caplog.messages


def test_a_tensor_that_does_not_decode_fails(counting: Model, tmp_path: Path) -> None:
    log = predict_log(1.0)
    log.predict_log.request.inputs["x"].tensor_content = b"123"
    write_warmup(tmp_path, log)
    assert fails(counting, tmp_path).message == "tensor parsing error: x"


def test_inputs_and_outputs_are_checked(counting: Model, tmp_path: Path) -> None:
    write_warmup(tmp_path, predict_log(1.0, alias="z"))
    assert "Inputs" in fails(counting, tmp_path).message
    log = predict_log(1.0)
    log.predict_log.request.output_filter.append("z")
    write_warmup(tmp_path, log)
    assert fails(counting, tmp_path).message.startswith("output tensor alias not found in signature: z")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("m", ""), "Found ModelSpec with an empty model name."),
        (("m", "n"), "All ModelSpecs in a MultiInferenceRequest must access the same model name."),
    ],
)
def test_names_within_a_multi_inference_are_checked(
    counting: Model, tmp_path: Path, names: tuple[str, str], message: str
) -> None:
    write_warmup(tmp_path, multi_inference_log(*names))
    assert fails(counting, tmp_path).message == message


def test_a_multi_inference_without_tasks_fails(counting: Model, tmp_path: Path) -> None:
    log = log_record()
    fill(log.multi_inference_log.request.input)
    write_warmup(tmp_path, log)
    assert fails(counting, tmp_path).code is Code.INVALID_ARGUMENT


def test_the_model_and_version_of_a_record_select_nothing(counting: Model, tmp_path: Path) -> None:
    predict, classify = predict_log(1.0), classify_log()
    predict.predict_log.request.model_spec.name = "another"
    predict.predict_log.request.model_spec.version.value = 77
    classify.classify_log.request.model_spec.name = "another"
    classify.classify_log.request.model_spec.version_label = "canary"
    write_warmup(tmp_path, predict, classify, multi_inference_log("another", "another"))
    replay_warmup_file(counting, 1, str(tmp_path), ServingMetrics.make())
    assert runs(counting) == {"predict": 1, "classify": 2, "regress": 1}


def test_the_response_of_a_record_is_not_looked_at(counting: Model, tmp_path: Path) -> None:
    log = classify_log()
    log.classify_log.response.CopyFrom(classification_pb2.ClassificationResponse())
    write_warmup(tmp_path, log)
    assert replay_warmup_file(counting, 1, str(tmp_path), ServingMetrics.make()) is True


def test_defaults_of_a_signature_apply(two_inputs: Model, tmp_path: Path) -> None:
    log = log_record()
    log.predict_log.request.model_spec.signature_name = "defaulted"
    log.predict_log.request.inputs["a"].CopyFrom(tf.make_tensor_proto([[1.0, 2.0]]))
    write_warmup(tmp_path, log)
    assert replay_warmup_file(two_inputs, 1, str(tmp_path), ServingMetrics.make()) is True
    log.predict_log.request.model_spec.signature_name = "serving_default"
    write_warmup(tmp_path, log)
    assert fails(two_inputs, tmp_path).message.startswith("input size does not match signature: 1!=2")


def test_method_names_are_checked_if_the_server_checks_them(counting: Model, tmp_path: Path) -> None:
    for log, method in ((classify_log(), "classification"), (regress_log(), "regression")):
        write_warmup(tmp_path, log)
        message = fails(counting, tmp_path, check_method_name=True).message
        assert message.startswith(f"Expected {method} signature method_name to be ")
