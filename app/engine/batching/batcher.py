"""Which versions are batched, and how: by the flags, and by a file in the version's directory."""

from __future__ import annotations

import logging
import os
from typing import Protocol

from app.config import batching
from app.config.batching import BatchingParameters
from app.cpus import usable_cpus
from app.engine.batching.adaptive import AdaptiveModel
from app.engine.batching.model import BatchedModel
from app.engine.batching.scheduler import Scheduler
from app.engine.model import Model
from app.options import Options
from app.telemetry.serving_metrics import BatchingMetrics

PER_MODEL_FILE = "batching_params.pbtxt"
_POOL_NAME = "model_server_batch_threads"

logger = logging.getLogger(__name__)


class Batcher(Protocol):
    """Wraps models so that their requests run in batches."""

    def start(self) -> None:
        """Start what runs batches; loads need it to warm up."""

    def drain(self) -> None:
        """Let no request wait for company any more."""

    def stop(self) -> None:
        """End what runs batches, once none waits."""

    def wrap(self, model: Model, path: str) -> Model:
        """`model`, loaded from the version directory `path`, with batching if it is to be batched."""


def from_options(options: Options, metrics: BatchingMetrics) -> Batcher | None:
    """What the flags ask for; None if nothing is to be batched.

    Raises:
        ServingError: the file of `--batching_parameters_file` cannot be used.
    """
    if options.adaptive_batching:
        return AdaptiveBatcher(options.batching_latency_target_in_ms / 1000, metrics)
    if not options.enable_batching:
        return None
    parameters = BatchingParameters(thread_pool_name=_POOL_NAME)
    if options.batching_parameters_file:
        parameters = batching.read_file(options.batching_parameters_file)
    parameters.check_pool()
    return ConfiguredBatcher(parameters, metrics, per_model=options.enable_per_model_batching_parameters)


class AdaptiveBatcher:
    """Batches every version without parameters, in the threads of the requests."""

    def __init__(self, latency_target: float, metrics: BatchingMetrics) -> None:
        """Let batches run for `latency_target` seconds at most; 0 for as long as it pays."""
        self._latency_target = latency_target
        self._metrics = metrics

    def start(self) -> None:
        """There are no threads to start."""

    def drain(self) -> None:
        """Requests wait for others only while the model is busy."""

    def stop(self) -> None:
        """There are no threads to end."""

    def wrap(self, model: Model, path: str) -> Model:  # noqa: ARG002 - all are batched alike
        """`model` with adaptive batching."""
        return AdaptiveModel(model, usable_cpus(), self._latency_target, self._metrics)


class ConfiguredBatcher:
    """Wraps models that are loaded, and owns the threads that run their batches."""

    def __init__(self, parameters: BatchingParameters, metrics: BatchingMetrics, *, per_model: bool) -> None:
        """Batch every version by `parameters`; with `per_model` those with a file of their own, by that."""
        self._parameters = parameters
        self._metrics = metrics
        self._per_model = per_model
        self._scheduler = Scheduler(parameters.num_batch_threads, parameters.thread_pool_name)

    def start(self) -> None:
        """Start the threads; loads need them to warm up.

        Raises:
            ServingError: there are too many.
        """
        self._scheduler.start()

    def drain(self) -> None:
        """Let no request wait for company any more."""
        self._scheduler.drain()

    def stop(self) -> None:
        """End the threads once the batches that wait have run."""
        self._scheduler.stop()

    def wrap(self, model: Model, path: str) -> Model:
        """`model`, loaded from the version directory `path`, with batching if it is to be batched.

        Raises:
            ServingError: the parameters that apply to it cannot be used.
        """
        parameters = self._parameters
        if self._per_model:
            file = os.path.join(path, PER_MODEL_FILE)
            if not os.path.exists(file):
                return model
            parameters = batching.read_file(file)
        parameters.check_queues()
        logger.info("Wrapping session to perform batch processing")
        return BatchedModel(model, parameters, self._scheduler, self._metrics)
