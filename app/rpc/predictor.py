"""The Predict method: on messages, and on bytes, which costs far less for requests like earlier ones."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tensorflow_serving.apis import predict_pb2

from app.api.models import LoadedVersion, ModelSpec, Registry, read_spec, require_name, resolve
from app.api.predict import PREDICT_METHODS, check_deadline, check_filter, find_signature, predict
from app.api.request_patterns import Buffer, Numbers, Pattern, Patterns
from app.api.response_writer import ResponseWriter
from app.api.tensor_proto import LazyInputs, can_send, from_array
from app.engine.model import Model, sorted_feeds
from app.engine.signature import DEFAULT_SIGNATURE
from app.errors import Code, ServingError
from app.options import Options
from app.rpc.method import Call
from app.telemetry.ferry_metrics import RunClock
from app.telemetry.observation import current, note_run
from app.telemetry.request_times import RequestTimes
from app.telemetry.serving_metrics import ServingMetrics


@dataclass(frozen=True, slots=True)
class _Plan:
    """How the requests of one pattern are answered by one loaded version.

    Attributes:
        model: for which it was made. It must not keep a version in memory that is unloaded.
        writer: of the answers; None if they have to be answered in another way.
        feeds: names of the tensors to feed.
        inputs: their numbers, in this order.
        fetches: names of the tensors to compute.
        outputs: for each output, in its order, which of them it is; empty if they are the fetches.
        times: where the requests are counted.
    """

    model: weakref.ref[Model]
    writer: ResponseWriter | None = None
    feeds: tuple[str, ...] = ()
    inputs: tuple[Numbers, ...] = ()
    fetches: tuple[str, ...] = ()
    outputs: tuple[int, ...] = ()
    times: RequestTimes | None = None


class Predictor:
    """Answers Predict."""

    def __init__(
        self,
        registry: Registry,
        options: Options,
        metrics: ServingMetrics,
        check_rate: Callable[[str], None] | None = None,
    ) -> None:
        """Ask models of `registry`, and count in `metrics`; `check_rate` may refuse requests to a model."""
        self._check_rate = check_rate
        self._registry = registry
        self._check_method_name = options.enable_signature_method_name_check
        self._as_content = options.enable_serialization_as_tensor_content
        self._metrics = metrics
        self._patterns = Patterns()
        self._times: dict[str, RequestTimes] = {}
        self._lock = threading.Lock()

    # --- messages ---

    def handle(self, request: Any, call: Call, clock: RunClock) -> Any:
        """The answer to a PredictRequest; raises ServingError. `clock` is told of the run."""
        spec = read_spec(request)
        require_name(spec)
        with resolve(self._registry, spec) as handle:
            outputs = predict(
                handle.servable,
                spec.signature_name,
                LazyInputs(request.inputs),
                request.output_filter,
                check_method_name=self._check_method_name,
                deadline=call.deadline,
                observe_run=clock,
            )
            signature = find_signature(handle.servable, spec.signature_name)
            assert signature is not None  # predict() found it
            response = _response(spec, handle)
            for alias, value in outputs.items():
                dtype = signature.outputs[alias].dtype
                from_array(value, dtype, as_content=self._as_content, into=response.outputs[alias])
        return response

    # --- bytes ---

    def serve(self, message: Buffer, call: Call) -> bytes | None:
        """The answer to a serialized PredictRequest that is like an earlier one; None to any other.

        Raises:
            ServingError: as `handle`, but counted.
        """
        start = time.perf_counter_ns()
        pattern = self._patterns.match(message)
        if pattern is None:
            return None
        name = pattern.spec.name
        try:
            handle = resolve(self._registry, pattern.spec)
            try:
                model = handle.servable
                plan = pattern.plan
                if plan is None or plan.model() is not model:
                    plan = pattern.plan = self._plan(pattern, handle, message)
                writer, times = plan.writer, plan.times
                if writer is None or times is None:
                    return None
                if self._check_rate is not None:  # not before: what is left to `handle` is checked there
                    self._check_rate(name)
                if call.deadline is not None:
                    check_deadline(call.deadline)
                aligned = model.needs_alignment
                values = []
                for numbers in plan.inputs:  # not a comprehension: that is a call
                    values.append(numbers.array(message, aligned=aligned))  # noqa: PERF401
                run_start = time.perf_counter_ns()
                results = model.call(plan.feeds, values, plan.fetches, call.deadline)
                run_end = time.perf_counter_ns()
                if current.get() is not None:
                    note_run("Predict", (run_end - run_start) // 1000)
            finally:
                handle.release()
            answer: bytes = writer.write(
                [results[index] for index in plan.outputs] if plan.outputs else results
            )
        except ServingError as error:
            self._metrics.request_count.increment(name, error.code.name)
            raise
        except Exception:
            self._metrics.request_count.increment(name, Code.INTERNAL.name)
            raise
        times.add(start, run_start, run_end, time.perf_counter_ns())
        return answer

    def learn(self, message: Buffer, request: Any) -> None:
        """See whether requests like this one can be answered from their bytes from now on."""
        self._patterns.missed(message, request)

    def _times_of(self, name: str) -> RequestTimes:
        """Where requests to a model are counted; only names of models that are there come here."""
        with self._lock:
            if name not in self._times:
                self._times[name] = RequestTimes(self._metrics, name, "Predict", "GRPC")
            return self._times[name]

    def _plan(self, pattern: Pattern, handle: LoadedVersion, message: Buffer) -> _Plan:
        """How to answer; without a writer for what is refused, or more complicated."""
        model = handle.servable
        aliases = sorted(numbers.alias for numbers in pattern.inputs)
        signature = find_signature(model, pattern.spec.signature_name)
        none = _Plan(weakref.ref(model))
        if signature is None or not pattern.spec.name or aliases != sorted(signature.inputs):
            return none
        if self._check_method_name and signature.method_name not in PREDICT_METHODS:
            return none
        feeds = sorted_feeds(signature.inputs.values())
        inputs = pattern.in_order(spec.alias for spec in feeds)
        try:
            check_filter(signature, pattern.output_filter)
            model.check(feeds, [numbers.array(message) for numbers in inputs])
        except ServingError:
            return none
        outputs = [signature.outputs[alias] for alias in pattern.output_filter or signature.outputs]
        if not all(can_send(output.dtype) for output in outputs):
            return none
        tensors = tuple(output.tensor for output in outputs)
        fetches = tuple(dict.fromkeys(tensors))
        spec = _response(pattern.spec, handle).SerializeToString()
        return _Plan(
            weakref.ref(model),
            writer=ResponseWriter(spec, outputs, as_content=self._as_content),
            feeds=tuple(spec.tensor for spec in feeds),
            inputs=inputs,
            fetches=fetches,
            outputs=() if tensors == fetches else tuple(map(fetches.index, tensors)),
            times=self._times_of(pattern.spec.name),
        )


def _response(spec: ModelSpec, handle: LoadedVersion) -> Any:
    """A PredictResponse without outputs."""
    response = predict_pb2.PredictResponse()
    response.model_spec.name = spec.name
    response.model_spec.version.value = handle.version
    response.model_spec.signature_name = spec.signature_name or DEFAULT_SIGNATURE
    return response
