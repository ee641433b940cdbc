"""REST requests to answers, without HTTP's machinery: bytes in, status and bytes out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import orjson
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2

from app.admission import Admission, nothing
from app.api.inference import classify, regress
from app.api.metadata import SIGNATURE_DEF, get_model_metadata
from app.api.model_list import list_models
from app.api.model_status import get_model_status
from app.api.models import ModelSpec, Registry, resolve
from app.api.predict import find_signature, predict
from app.config.model_config import ModelConfig
from app.engine.model import Model
from app.engine.signature import DEFAULT_SIGNATURE, TensorSpec
from app.errors import Code, ServingError, invalid_argument
from app.lifecycle.states import StateBoard
from app.options import Options
from app.recording.prediction_logs import record_inference, record_predict
from app.rest import json_decode, json_encode, json_examples, paths
from app.rest.body import TooLargeError
from app.rest.paths import Action, Route
from app.telemetry.ferry_metrics import RunClock, Traffic
from app.telemetry.observation import current
from app.telemetry.serving_metrics import ServingMetrics, micros

logger = logging.getLogger(__name__)

_INFERENCE = (Action.PREDICT, Action.CLASSIFY, Action.REGRESS)


class Reply(NamedTuple):
    """An answer, and what metrics say of it. A NamedTuple as one is made for every request.

    Attributes:
        status: of HTTP.
        body: JSON, or empty.
        code: of the outcome.
        model: the name that was asked for; empty if the path names none.
        api: the method's word in the path; empty for status, metadata and OPTIONS.
        micros: what the answer took, in microseconds.
        stages: nanoseconds of decoding, running and encoding; empty if no model was run.
        retry_after: seconds after which to try again, if that may help.
    """

    status: int
    body: bytes
    code: Code = Code.OK
    model: str = ""
    api: str = ""
    micros: int = 0
    stages: tuple[int, ...] = ()
    retry_after: float | None = None


class RestService:
    """Answers what the `/v1/` paths can be asked. Safe for any number of threads."""

    def __init__(
        self,
        registry: Registry,
        board: StateBoard,
        options: Options,
        metrics: ServingMetrics | None = None,
        models: Callable[[], Mapping[str, ModelConfig]] = dict,
        *,
        admission: Admission | None = None,
    ) -> None:
        """Prepare to answer.

        Args:
            registry: where models are pinned.
            board: where states are read.
            options: of the server.
            metrics: where requests are counted; nowhere if None.
            models: the configuration in force, for the list of models.
            admission: decides which requests to models are taken on; by `options` alone if None.
        """
        self._metrics = metrics or ServingMetrics.make()
        self._admission = admission or Admission(options, self._metrics.ferry.refused, models)
        self._max_depth = options.rest_api_max_json_depth
        self._models = models
        self._traffic = {
            f":{action.value}": self._metrics.ferry.traffic(action.value, "REST") for action in _INFERENCE
        }
        self._other_traffic = self._metrics.ferry.traffic("", "REST")
        self._reader = json_decode.PredictReader(self._max_depth)
        self._registry = registry
        self._board = board
        self._check_method_name = options.enable_signature_method_name_check

    def admit(self, method: str, target: str) -> Callable[[], None]:
        """Take a request on before its body is read; the result has to be called when it is over.

        Raises:
            ServingError: RESOURCE_EXHAUSTED beyond what `Admission` allows.
        """
        if not self._admission.limits:
            return nothing
        try:
            route = paths.route(method, target)
        except (ServingError, paths.EmptyBadRequestError):
            return nothing  # `answer` says why
        if route.action not in _INFERENCE:
            return nothing
        leave = self._admission.enter()
        try:
            self._admission.check_rate(route.spec.name)
        except ServingError:
            leave()
            raise
        return leave

    def refused(self, target: str, error: ServingError) -> Reply:
        """The reply to a request that was not taken on."""
        return error_reply(error, _model_in(target))

    def too_large(self, target: str, error: TooLargeError) -> Reply:
        """The reply to a request with a body beyond a limit."""
        self._metrics.ferry.refused.increment(error.reason)
        body = json_encode.encode_error(error.text)
        return Reply(413, body, Code.RESOURCE_EXHAUSTED, _model_in(target))

    def answer(self, method: str, target: str, body: bytes, deadline: float | None = None) -> Reply:
        """Answer one request; every failure becomes an error body. Counting the reply is the caller's.

        Args:
            method: GET, POST, …
            target: path, query and fragment as received.
            body: decompressed.
            deadline: on `time.monotonic`; None for no timeout.
        """
        start = time.perf_counter_ns()
        model = ""
        try:
            route = paths.route(method, target)
            model = route.spec.name
            if route.action not in _INFERENCE:
                return Reply(
                    200, self._tell(route), Code.OK, model, "", micros(start, time.perf_counter_ns())
                )
            clock = self._metrics.observe_run(model)
            answer = self._answer(route, body, deadline, clock)
            end = time.perf_counter_ns()
            stages = clock.stages(start, end)
            return Reply(200, answer, Code.OK, model, route.api, micros(start, end), stages)
        except ServingError as error:
            return error_reply(error, model)
        except paths.EmptyBadRequestError:
            return Reply(400, b"", Code.INVALID_ARGUMENT)
        except Exception as error:
            logger.exception("%s %s failed unexpectedly", method, target)
            return error_reply(ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}"), model)

    def timed_out(self, method: str, target: str) -> Reply:
        """The reply to a request whose `answer` takes too long."""
        error = ServingError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")
        return error_reply(error, _model_in(target, method))

    def traffic(self, target: str) -> Traffic:
        """Where a request to `target` is counted while it is under way, with its bytes."""
        return self._traffic.get(target[target.rfind(":") :], self._other_traffic)

    def count(self, reply: Reply) -> None:
        """Count a reply that is sent: exactly one for each request, whatever its work goes on to do."""
        if reply.code is not Code.OK:
            self._metrics.request_count.increment(reply.model, reply.code.name)
        else:  # written out: an enum's `name` costs two calls
            self._metrics.request_count.increment(reply.model, "OK")
            self._metrics.request_micros.observe(reply.micros, reply.model, reply.api, "REST")
            if reply.stages:
                self._metrics.ferry.stages.observe(reply.stages, reply.model, reply.api, "REST")

    def _tell(self, route: Route) -> bytes:
        """Answer what runs no model."""
        if route.action is Action.STATUS:
            return self._status(route.spec)
        if route.action is Action.METADATA:
            return self._metadata(route.spec)
        return json_encode.encode_models(list_models(self._models().values(), self._board))

    def _answer(self, route: Route, body: bytes, deadline: float | None, clock: RunClock) -> bytes:
        if route.action is Action.PREDICT:
            return self._predict(route.spec, body, deadline, clock)
        if route.action is Action.CLASSIFY:
            result = self._infer(classify, route.spec, body, deadline, clock).result
            return json_encode.encode_classify(result)
        result = self._infer(regress, route.spec, body, deadline, clock).result
        return json_encode.encode_regress(result)

    def _predict(self, spec: ModelSpec, body: bytes, deadline: float | None, clock: RunClock) -> bytes:
        request = self._reader.read(body)
        if request.signature_name:
            spec = replace(spec, signature_name=request.signature_name)
        with resolve(self._registry, spec) as handle:
            wanted = _input_map(handle.servable, request.signature_name)
            inputs, row = json_decode.to_tensors(request, wanted)
            outputs = predict(
                handle.servable,
                request.signature_name,
                inputs,
                check_method_name=self._check_method_name,
                deadline=deadline,
                observe_run=clock,
            )
            if current.get() is not None:
                signature = handle.servable.signatures[spec.signature_name or DEFAULT_SIGNATURE]
                record_predict(spec, handle.version, signature, inputs, outputs, size=len(body))
        return json_encode.encode_predict(outputs, row)

    def _infer(
        self,
        method: Callable[..., Any],
        spec: ModelSpec,
        body: bytes,
        deadline: float | None,
        clock: RunClock,
    ) -> Any:
        request = json_examples.read_examples(body, self._max_depth)
        spec = replace(spec, signature_name=request.signature_name)
        with resolve(self._registry, spec) as handle:
            response = method(
                handle,
                spec,
                request.input,
                check_method_name=self._check_method_name,
                deadline=deadline,
                observe_run=clock,
            )
        record_inference(spec, request.input, response, size=len(body))
        return response

    def _status(self, spec: ModelSpec) -> bytes:
        message = _as_dict(get_model_status(self._board, spec))
        return orjson.dumps(message)

    def _metadata(self, spec: ModelSpec) -> bytes:
        response = get_model_metadata(self._registry, spec)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[SIGNATURE_DEF].Unpack(signatures)
        model_spec = {
            "name": response.model_spec.name,
            "version": str(response.model_spec.version.value),
            "signature_name": "",
        }
        metadata = {SIGNATURE_DEF: _as_dict(signatures)}
        return orjson.dumps({"model_spec": model_spec, "metadata": metadata})


def error_reply(error: ServingError, model: str = "") -> Reply:
    """The answer that tells a client of `error`."""
    body = json_encode.encode_error(error.message)
    return Reply(error.code.http_status, body, error.code, model, retry_after=error.retry_after)


def _model_in(target: str, method: str = "POST") -> str:
    """The name of the model that a request asks for; empty if there is none."""
    try:
        return paths.route(method, target).spec.name
    except (ServingError, paths.EmptyBadRequestError):
        return ""


def _input_map(model: Model, signature_name: str) -> Mapping[str, TensorSpec]:
    """The inputs that JSON is converted to."""
    signature = find_signature(model, signature_name)
    if signature is None:
        raise invalid_argument(
            f'Serving signature name: "{signature_name or "serving_default"}" not found in signature def'
        )
    return signature.inputs


def _as_dict(message: Any) -> dict[str, Any]:
    """proto3 JSON with the proto's own field names and every default printed."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
