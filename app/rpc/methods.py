"""The gRPC method table: which message each method takes and what answers it. Knows no transport."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from app.admission import Admission
from app.api.inference import classify, multi_inference, regress
from app.api.metadata import check_fields, get_model_metadata
from app.api.model_status import get_model_status
from app.api.models import ModelSpec, Registry, from_proto, read_spec, require_name, resolve
from app.api.reload_config import ApplyModels, ReadMetric, reload_config
from app.errors import Code, ServingError
from app.lifecycle.states import StateBoard
from app.options import Options
from app.rpc.method import Call, Method
from app.rpc.predictor import Predictor
from app.telemetry.ferry_metrics import RunClock
from app.telemetry.observation import note_run
from app.telemetry.serving_metrics import ServingMetrics, micros

_HEALTH = "/grpc.health.v1.Health/"


def method_table(
    registry: Registry,
    board: StateBoard,
    options: Options,
    apply_models: ApplyModels,
    metrics: ServingMetrics | None = None,
    *,
    admission: Admission | None = None,
) -> Mapping[str, Method]:
    """Every method that is served, by path such as `/tensorflow.serving.PredictionService/Predict`.

    Args:
        registry: where models are pinned.
        board: where states are read.
        options: of the server.
        apply_models: puts a new list of models into force.
        metrics: where requests are counted; nowhere if None.
        admission: of requests to models; by `options` alone if None.
    """
    metrics = metrics or ServingMetrics.make()
    admission = admission or Admission(options, metrics.ferry.refused)
    counted = partial(_counted, metrics, admission.check_rate)
    predictor = Predictor(registry, options, metrics, admission.check_rate if admission.limits else None)
    classify_ = partial(_infer, registry, options, method=classify)
    regress_ = partial(_infer, registry, options, method=regress)
    prediction = "/tensorflow.serving.PredictionService/"
    model = "/tensorflow.serving.ModelService/"
    methods = {
        prediction + "Predict": Method(
            predict_pb2.PredictRequest,
            counted("Predict", predictor.handle),
            takes_place=True,
            shortcut=predictor,
        ),
        prediction + "Classify": Method(
            classification_pb2.ClassificationRequest, counted("Classify", classify_), takes_place=True
        ),
        prediction + "Regress": Method(
            regression_pb2.RegressionRequest, counted("Regress", regress_), takes_place=True
        ),
        prediction + "MultiInference": Method(
            inference_pb2.MultiInferenceRequest,
            partial(_multi_inference, registry, options, metrics, check_rate=admission.check_rate),
            takes_place=True,
        ),
        prediction + "GetModelMetadata": Method(
            get_model_metadata_pb2.GetModelMetadataRequest, partial(_metadata, registry)
        ),
        model + "HandleReloadConfigRequest": Method(
            model_management_pb2.ReloadConfigRequest,
            partial(_reload, apply_models, metrics.registry.first_value),
            blocks=True,
        ),
        model + "GetModelStatus": Method(get_model_status_pb2.GetModelStatusRequest, partial(_status, board)),
    }
    return {
        path: replace(method, traffic=metrics.ferry.traffic(path.rpartition("/")[2], "GRPC"))
        for path, method in methods.items()
    }


def services(methods: Mapping[str, object]) -> tuple[str, ...]:
    """The full names of the services in a table, sorted."""
    return tuple(sorted({path.split("/")[1] for path in methods}))


def is_seen(path: str) -> bool:
    """Whether observers see calls of a method: not those of probes, which come all the time."""
    return not path.startswith(_HEALTH)


def _counted(
    metrics: ServingMetrics,
    check_rate: Callable[[str], None],
    api: str,
    handle: Callable[[Any, Call, RunClock], Any],
) -> Callable[[Any, Call], Any]:
    """`handle`, with the count of its requests, their rate, and the times of those that succeed."""

    def counted(request: Any, call: Call) -> Any:
        start = time.perf_counter_ns()
        model, code = request.model_spec.name, Code.INTERNAL
        clock = metrics.observe_run(model)
        try:
            check_rate(model)
            response = handle(request, call, clock)
            code = Code.OK
        except ServingError as error:
            code = error.code
            raise
        finally:
            metrics.request_count.increment(model, code.name)
        end = time.perf_counter_ns()
        metrics.request_micros.observe(micros(start, end), model, api, "GRPC")
        metrics.ferry.stages.observe(clock.stages(start, end), model, api, "GRPC")
        return response

    return counted


def _infer(
    registry: Registry,
    options: Options,
    request: Any,
    call: Call,
    clock: RunClock,
    *,
    method: Callable[..., Any],
) -> Any:
    """Classify or Regress, which differ in `method` only."""
    spec = read_spec(request)
    require_name(spec)
    with resolve(registry, spec) as handle:
        return method(
            handle,
            spec,
            request.input,
            check_method_name=options.enable_signature_method_name_check,
            deadline=call.deadline,
            observe_run=clock,
        )


def _multi_inference(
    registry: Registry,
    options: Options,
    metrics: ServingMetrics,
    request: Any,
    call: Call,
    *,
    check_rate: Callable[[str], None],
) -> Any:
    # The first task names the model; without tasks there is no name.
    spec = from_proto(request.tasks[0].model_spec) if request.tasks else ModelSpec("")
    require_name(spec)
    check_rate(spec.name)
    with resolve(registry, spec) as handle:
        return multi_inference(
            handle,
            request.tasks,
            request.input,
            check_method_name=options.enable_signature_method_name_check,
            deadline=call.deadline,
            observe_run=note_run,
            observe_examples=partial(metrics.observe_examples, spec.name),
        )


def _metadata(registry: Registry, request: Any, call: Call) -> Any:
    del call  # deadlines play no part here, nor for the status
    spec = read_spec(request)
    check_fields(request.metadata_field)
    require_name(spec)
    return get_model_metadata(registry, spec)


def _reload(apply_models: ApplyModels, read_metric: ReadMetric, request: Any, call: Call) -> Any:
    del call  # a reload goes on even if its client gives up
    return reload_config(apply_models, read_metric, request)


def _status(board: StateBoard, request: Any, call: Call) -> Any:
    del call
    return get_model_status(board, read_spec(request))
