"""Which versions are batched, and how: by the flags, and by a file in the version's directory."""

from __future__ import annotations

import logging
import os

from app.config import batching
from app.config.batching import BatchingParameters
from app.engine.batching.model import BatchedModel
from app.engine.batching.scheduler import Scheduler
from app.engine.model import Model
from app.options import Options
from app.telemetry.serving_metrics import BatchingMetrics

PER_MODEL_FILE = "batching_params.pbtxt"
_POOL_NAME = "model_server_batch_threads"

logger = logging.getLogger(__name__)


class Batcher:
    """Wraps models that are loaded, and owns the threads that run their batches."""

    def __init__(self, parameters: BatchingParameters, metrics: BatchingMetrics, *, per_model: bool) -> None:
        """Batch every version by `parameters`; with `per_model` those with a file of their own, by that."""
        self._parameters = parameters
        self._metrics = metrics
        self._per_model = per_model
        self._scheduler = Scheduler(parameters.num_batch_threads, parameters.thread_pool_name)

    @staticmethod
    def from_options(options: Options, metrics: BatchingMetrics) -> Batcher | None:
        """What the flags ask for; None without `--enable_batching`.

        Raises:
            ServingError: the file of `--batching_parameters_file` cannot be used.
        """
        if not options.enable_batching:
            return None
        parameters = BatchingParameters(thread_pool_name=_POOL_NAME)
        if options.batching_parameters_file:
            parameters = batching.read_file(options.batching_parameters_file)
        parameters.check_pool()
        return Batcher(parameters, metrics, per_model=options.enable_per_model_batching_parameters)

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
