"""The gRPC method table: which message each method takes and what answers it.

Knows no transport: a transport looks a method up by path, decodes its request, calls its handler
and sends what comes back, or the `ServingError` that was raised.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
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

from app.admission import Admission, whole_seconds
from app.api.inference import classify, multi_inference, regress
from app.api.metadata import check_fields, get_model_metadata
from app.api.model_status import get_model_status
from app.api.models import ModelSpec, Registry, resolve
from app.api.predict import find_signature, predict
from app.api.reload_config import ApplyModels, ReadMetric, reload_config
from app.api.tensor_proto import LazyInputs, from_array
from app.engine.signature import DEFAULT_SIGNATURE
from app.errors import Code, ServingError, invalid_argument
from app.lifecycle.states import StateBoard
from app.options import Options
from app.telemetry.ferry_metrics import RunClock, Traffic
from app.telemetry.observation import note_run
from app.telemetry.serving_metrics import ServingMetrics, micros

# TensorFlow Serving cuts error texts on gRPC, so that they fit into the headers of an answer.
_LONGEST_MESSAGE = 1024
_HEALTH = "/grpc.health.v1.Health/"


@dataclass(frozen=True)
class Call:
    """What a transport knows of a call beside its message.

    Attributes:
        deadline: on `time.monotonic`; None if the client set none.
    """

    deadline: float | None = None


@dataclass(frozen=True)
class Method:
    """A unary method.

    Attributes:
        request: the message class to decode with.
        handle: message and call to answer; raises ServingError.
        traffic: where a transport counts calls and bytes.
        quick: takes microseconds, and has to be answered even while models take every thread.
        blocks: whether it waits for other things than the model that it runs, and so needs a thread.
        takes_place: whether calls count for `--max_in_flight_requests`.
    """

    request: type[Any]
    handle: Callable[[Any, Call], Any]
    traffic: Traffic = field(default_factory=Traffic)
    quick: bool = False
    blocks: bool = False
    takes_place: bool = False


@dataclass(frozen=True)
class PushMethod:
    """A method that answers one message with any number, whenever there is something to say.

    No thread waits for that: the method is handed a function that sends.

    Attributes:
        request: the message class to decode with.
        subscribe: message and function to a function to call once the client is gone. The function
            given sends a message, or ends the call when given None; it does not block and may be called
            in any thread.
    """

    request: type[Any]
    subscribe: Callable[[Any, Callable[[Any], None]], Callable[[], None]]


@dataclass(frozen=True)
class DialogueMethod:
    """A method that answers each message of a stream with one. A transport ends open streams with its stop.

    Attributes:
        request: the message class to decode with.
        answer: message to answer; does not raise.
    """

    request: type[Any]
    answer: Callable[[Any], Any]


@dataclass(frozen=True)
class StreamMethod:
    """A method with any number of requests and answers.

    Attributes:
        request: the message class to decode with.
        handle: requests and call to answers, on an event loop; raises ServingError. It is cancelled when
            the client is gone.
    """

    request: type[Any]
    handle: Callable[[AsyncIterator[Any], Call], AsyncIterator[Any]]


AnyMethod = Method | PushMethod | DialogueMethod | StreamMethod
Table = Mapping[str, AnyMethod]


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
    predict_ = partial(_predict, registry, options)
    classify_ = partial(_infer, registry, options, method=classify)
    regress_ = partial(_infer, registry, options, method=regress)
    prediction = "/tensorflow.serving.PredictionService/"
    model = "/tensorflow.serving.ModelService/"
    methods = {
        prediction + "Predict": Method(
            predict_pb2.PredictRequest, counted("Predict", predict_), takes_place=True
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


def wire_message(error: ServingError) -> str:
    """The text of `error` as a gRPC client gets it: cut where TensorFlow Serving cuts."""
    if len(error.message.encode()) <= _LONGEST_MESSAGE:
        return error.message
    kept = error.message.encode()[:_LONGEST_MESSAGE].decode(errors="ignore")
    return f"{kept}...TRUNCATED"


def retry_metadata(error: ServingError) -> tuple[tuple[str, str], ...]:
    """What `error` says beside code and text: when to try again, for gRPC's own retries and for people."""
    if error.retry_after is None:
        return ()
    return (
        ("grpc-retry-pushback-ms", str(round(error.retry_after * 1000))),
        ("retry-after", str(whole_seconds(error.retry_after))),
    )


def _spec(request: Any) -> ModelSpec:
    """The model spec of a request, which may still lack a name."""
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    return _model_spec(request.model_spec)


def _model_spec(proto: Any) -> ModelSpec:
    choice = proto.WhichOneof("version_choice")
    return ModelSpec(
        name=proto.name,
        version=proto.version.value if choice == "version" else None,
        label=proto.version_label if choice == "version_label" else None,
        signature_name=proto.signature_name,
    )


def _require_name(spec: ModelSpec) -> None:
    if not spec.name:
        raise invalid_argument("ModelSpec has no name specified.")


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


def _predict(registry: Registry, options: Options, request: Any, call: Call, clock: RunClock) -> Any:
    spec = _spec(request)
    _require_name(spec)
    with resolve(registry, spec) as handle:
        outputs = predict(
            handle.servable,
            spec.signature_name,
            LazyInputs(request.inputs),
            request.output_filter,
            check_method_name=options.enable_signature_method_name_check,
            deadline=call.deadline,
            observe_run=clock,
        )
        signature = find_signature(handle.servable, spec.signature_name)
        assert signature is not None  # predict() found it
        response = predict_pb2.PredictResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = handle.version
        response.model_spec.signature_name = spec.signature_name or DEFAULT_SIGNATURE
        as_content = options.enable_serialization_as_tensor_content
        for alias, value in outputs.items():
            dtype = signature.outputs[alias].dtype
            from_array(value, dtype, as_content=as_content, into=response.outputs[alias])
    return response


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
    spec = _spec(request)
    _require_name(spec)
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
    spec = _model_spec(request.tasks[0].model_spec) if request.tasks else ModelSpec("")
    _require_name(spec)
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
    spec = _spec(request)
    check_fields(request.metadata_field)
    _require_name(spec)
    return get_model_metadata(registry, spec)


def _reload(apply_models: ApplyModels, read_metric: ReadMetric, request: Any, call: Call) -> Any:
    del call  # a reload goes on even if its client gives up
    return reload_config(apply_models, read_metric, request)


def _status(board: StateBoard, request: Any, call: Call) -> Any:
    del call
    return get_model_status(board, _spec(request))
