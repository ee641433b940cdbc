"""Warm-up files: recorded requests that a version answers before it is served.

They run through the code that answers clients, so that whatever is slow the first time is over
when the version becomes available. Place, form, limit and texts are TensorFlow Serving's.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.python.lib.io._pywrap_record_io import RecordIterator
from tensorflow_serving.apis import prediction_log_pb2

from app.api.inference import classify, multi_inference, regress
from app.api.models import ModelSpec
from app.api.predict import predict
from app.api.tensor_proto import LazyInputs
from app.engine.model import Model
from app.engine.status import tensorflow_errors
from app.errors import Code, ServingError, invalid_argument
from app.telemetry.serving_metrics import ServingMetrics, micros

FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000
# An error text goes into the log and into every status answer; a record may have megabytes.
_MOST_BYTES_SHOWN = 1024

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _NotServedYet:
    """The version that is being loaded."""

    servable: Model
    version: int


def replay_warmup_file(
    model: Model,
    version: int,
    path: str,
    metrics: ServingMetrics,
    *,
    repetitions: int = 1,
    check_method_name: bool = False,
) -> bool:
    """Run the requests of a version's warm-up file, each to its end before the next.

    Args:
        model: the version's model, which nobody else uses yet.
        version: its number.
        path: the version directory.
        metrics: told of the file and of the runs.
        repetitions: how often each record runs; less than 1 counts as 1.
        check_method_name: refuse signatures that were not exported for their request.

    Returns:
        False if there is no warm-up file.

    Raises:
        ServingError: the file cannot be read, is no TFRecord file (DATA_LOSS), holds what is no
            PredictionLog or more than `MAX_RECORDS` records (INVALID_ARGUMENT), a kind of request that
            is not replayed (UNIMPLEMENTED), or a request that fails: then what a client would get.
    """
    file = os.path.join(path, FILE)
    if not os.path.exists(file):
        logger.info("No warmup data file found at %s", file)
        return False
    started = time.perf_counter_ns()
    shown = f"num_request_iterations {{ value: {repetitions} }}" if repetitions > 0 else ""
    logger.info("Starting to read warmup data for model at %s with model-warmup-options %s", file, shown)
    replay = _Replay(_NotServedYet(model, version), metrics, check_method_name)
    records = _Records(file)
    try:
        for record in records:
            log = _parse(record, file)
            try:
                for _ in range(max(1, repetitions)):
                    replay(log)
            except ServingError:
                logger.warning(
                    "Record %d of the warm-up file %s fails, and the load with it.", records.count, file
                )
                raise
            if records.count > MAX_RECORDS:
                raise invalid_argument(
                    f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {file}"
                )
    finally:
        took = micros(started, time.perf_counter_ns())
        if records.ended:
            metrics.warmup_micros.observe(took, path, records.ended)
            metrics.warmup_records.increment(path, records.ended, by=records.count)
    logger.info(
        "Finished reading warmup data for model at %s. Number of warmup records read: %d. "
        "Elapsed time (microseconds): %d.",
        file,
        records.count,
        took,
    )
    return True


class _Records:
    """The records of a TFRecord file, one at a time.

    TensorFlow's own reader gives TensorFlow's texts; unlike a tf.data pipeline it makes no eager
    context, which costs memory and could fix the thread counts of the process.

    Attributes:
        count: how many were read so far.
        ended: `OK` once all were, the error's text once one could not be.
    """

    def __init__(self, file: str) -> None:
        self.count = 0
        self.ended = ""
        self._file = file

    def __iter__(self) -> Iterator[bytes]:
        reader = self._read()
        while True:
            try:
                record = next(reader, None)
            except ServingError as error:
                self.ended = str(error)
                raise
            if record is None:
                self.ended = "OK"
                return
            self.count += 1
            yield record

    def _read(self) -> Iterator[bytes]:
        try:
            with tensorflow_errors():
                yield from RecordIterator(self._file, "")
        except ServingError as error:
            if error.code is not Code.DATA_LOSS:
                raise
            advice = "Please verify your warmup data is in TFRecord format."
            raise ServingError(Code.DATA_LOSS, f"{error.message}. {advice}") from error


def _parse(record: bytes, file: str) -> Any:
    try:
        return prediction_log_pb2.PredictionLog.FromString(record)
    except DecodeError:
        shown = record[:_MOST_BYTES_SHOWN].decode(errors="backslashreplace")
        if len(record) > _MOST_BYTES_SHOWN:
            shown += "...TRUNCATED"
        raise invalid_argument(f"Failed to parse warmup record: {shown} from {file}") from None


@dataclass(frozen=True)
class _Replay:
    """Answers the request of a PredictionLog; the model and version that it names select nothing."""

    loaded: _NotServedYet
    metrics: ServingMetrics
    check_method_name: bool

    def __call__(self, log: Any) -> None:
        kind = log.WhichOneof("log_type")
        if kind == "predict_log":
            request = log.predict_log.request
            predict(
                self.loaded.servable,
                request.model_spec.signature_name,
                LazyInputs(request.inputs),
                request.output_filter,
                check_method_name=self.check_method_name,
                observe_run=self.metrics.observe_run(request.model_spec.name),
            )
        elif kind in ("classify_log", "regress_log"):
            method = classify if kind == "classify_log" else regress
            request = getattr(log, kind).request
            name = request.model_spec.name
            method(
                self.loaded,
                ModelSpec(name, signature_name=request.model_spec.signature_name),
                request.input,
                check_method_name=self.check_method_name,
                observe_run=self.metrics.observe_run(name),
            )
        elif kind == "multi_inference_log":
            request = log.multi_inference_log.request
            multi_inference(
                self.loaded, request.tasks, request.input, check_method_name=self.check_method_name
            )
        elif kind is not None:
            number = log.DESCRIPTOR.fields_by_name[kind].number
            raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")
