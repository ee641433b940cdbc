"""The composition root: every part of the server is made and wired here, and nowhere else.

`Server` lives in the worker process. The parts, from the bottom: a board of states, the manager
that owns model versions, the source that finds them, the configuration in force, the API's two
faces. `start` brings them up in that order and listens for gRPC last; the worker then listens for
REST. `drain` and `stop` go the other way.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import falcon.asgi

from app.config import monitoring
from app.config.model_config import ModelConfig, read_file
from app.cpus import usable_cpus
from app.engine.batching import batcher
from app.engine.model import Model
from app.lifecycle.config_poller import ConfigPoller
from app.lifecycle.manager import Manager
from app.lifecycle.model_cache import ModelCache
from app.lifecycle.served_models import ServedModels
from app.lifecycle.sources import Sources
from app.lifecycle.states import StateBoard
from app.lifecycle.store import Stores
from app.loader import Loader
from app.options import Options, without_effect
from app.rest.application import MetricsPage, make_application
from app.rest.service import RestService
from app.rpc.grpcio_transport import GrpcServer
from app.rpc.methods import method_table
from app.rpc.profiler import Profiler
from app.telemetry import prometheus
from app.telemetry.serving_metrics import ServingMetrics

# TensorFlow Serving's figure.
_INITIAL_LOADS_PER_CPU = 4

logger = logging.getLogger(__name__)


class Server:
    """Serves the configured models, from `start` to `stop`.

    Attributes:
        rest: the ASGI application, to be served by whoever owns the event loop.
    """

    def __init__(self, options: Options) -> None:
        """Make and wire the parts; nothing runs yet.

        Raises:
            ServingError: a configuration file cannot be used, or a GPU is missing.
        """
        self._options = options
        self._metrics = ServingMetrics.make()
        self._board = StateBoard()
        self._stores = Stores()
        self._cache = ModelCache(self._stores, options.model_cache_dir)
        self._batcher = batcher.from_options(options, self._metrics.batching)
        loader = Loader(options, self._metrics, self._cache, self._batcher, gpu_required=_gpu_is_required())
        self._manager: Manager[Model] = Manager(
            loader.load,
            self._board,
            max_retries=options.max_num_load_retries,
            retry_seconds=options.load_retry_interval_micros / 1e6,
            load_threads=options.num_load_threads,
            unload_threads=options.num_unload_threads,
            initial_load_threads=_INITIAL_LOADS_PER_CPU * usable_cpus(),
            forgotten=self._cache.drop,
        )
        self._source = Sources(
            self._manager,
            options.file_system_poll_wait_seconds,
            self._stores,
            options.remote_poll_wait_seconds,
        )
        self._models = ServedModels(
            self._source,
            self._board,
            self._manager.labels,
            allow_labels_for_unavailable=options.allow_version_labels_for_unavailable_models,
        )
        self._config_poller: ConfigPoller | None = None
        methods = method_table(self._manager, self._board, options, self._models.apply, self._metrics)
        self._profiler = Profiler()
        if options.enable_profiler:
            methods = {**methods, **self._profiler.methods()}
        self._grpc = GrpcServer(methods, options)
        self.rest: falcon.asgi.App[Any, Any] = make_application(
            RestService(self._manager, self._board, options, self._metrics), options, self._metrics_page()
        )

    def _metrics_page(self) -> MetricsPage | None:
        """The Prometheus page, if the configuration enables it; the file is read only for a REST port."""
        options = self._options
        if not options.monitoring_config_file or options.rest_api_port in (0, options.port):
            return None
        config = monitoring.read_file(options.monitoring_config_file)
        if config is None:
            return None
        return MetricsPage(config.path, partial(prometheus.page, self._metrics.registry))

    def start(self) -> None:
        """Load the models, then answer gRPC. Blocks until both are done, however long it takes.

        Raises:
            ServingError: the configuration or a model cannot be served, or the gRPC address cannot be bound.
        """
        for flag in without_effect(self._options):
            logger.warning("--%s has no effect: %s.", flag.name, flag.reason)
        if self._options.model_cache_dir:
            self._cache.open()
        if self._batcher is not None:
            self._batcher.start()
        self._manager.start()
        self._source.start()
        models = self._configured_models()
        if models is None:
            logger.info("Taking no action for empty config.")
        else:
            self._models.apply(models, noun="servable")
        self._manager.initial_loads_done()
        if self._options.enable_profiler:
            logger.info("Profiler service is enabled")
        self._grpc.start()
        if self._options.model_config_file and self._options.model_config_file_poll_wait_seconds > 0:
            seconds = self._options.model_config_file_poll_wait_seconds
            self._config_poller = ConfigPoller(self._reload_file, seconds)
            self._config_poller.start()

    def _configured_models(self) -> Sequence[ModelConfig] | None:
        """The models that the flags name; None for a config file that names none."""
        if self._options.model_config_file:
            return read_file(self._options.model_config_file)
        name, base_path = self._options.model_name, self._options.model_base_path
        logger.info(
            "Building single TensorFlow model file config:  model_name: %s model_base_path: %s",
            name,
            base_path,
        )
        return [ModelConfig(name, base_path)]

    def _reload_file(self) -> None:
        models = read_file(self._options.model_config_file)
        if models is not None:
            self._models.apply(models)

    def drain(self, deadline: float) -> None:
        """Take no more gRPC calls and let the running ones finish, until `deadline` (monotonic)."""
        self._profiler.close()  # a profile would make everybody wait for its end
        if self._batcher is not None:
            self._batcher.drain()
        self._grpc.stop(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """End the threads and close the models; call it when nothing is served any more."""
        if self._config_poller is not None:
            self._config_poller.stop()
        self._source.stop()
        self._manager.stop()
        if self._batcher is not None:
            self._batcher.stop()
        self._cache.close()
        self._stores.close()


def _gpu_is_required() -> bool:
    """Whether the image says that it is made for GPUs."""
    return os.environ.get("FERRY_REQUIRE_GPU", "") not in ("", "0")
