"""The composition root: every part of the server is made and wired here, and nowhere else.

`Server` lives in the worker process. The parts, from the bottom: a board of states, the manager
that owns model versions, the source that finds them, the configuration in force, the API's two
faces. `start` brings them up in that order and listens for gRPC last; the worker then listens for
REST. `drain` and `stop` go the other way.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any

import falcon.asgi
import tensorflow as tf

from app import __version__
from app.admission import Admission
from app.api.model_metrics import add_model_metrics
from app.config import monitoring
from app.config.model_config import ModelConfig, read_file
from app.cpus import usable_cpus
from app.engine.batching import batcher
from app.engine.model import Model
from app.errors import Code, ServingError
from app.lifecycle.black_box import BlackBox, crash_text
from app.lifecycle.config_poller import ConfigPoller
from app.lifecycle.manager import Manager
from app.lifecycle.model_cache import ModelCache
from app.lifecycle.readiness import Readiness
from app.lifecycle.served_models import ServedModels
from app.lifecycle.sources import Sources
from app.lifecycle.states import State, VersionStatus
from app.lifecycle.store import Stores
from app.loader import Loader
from app.options import Options, without_effect
from app.recording.recorders import RequestLogs
from app.rest.application import make_application
from app.rest.pages import Content, Page, probes
from app.rest.protocol import http_protocol
from app.rest.service import RestService
from app.rpc.methods import method_table
from app.rpc.profiler import Profiler
from app.rpc.servers import GrpcServers
from app.security.security import Security
from app.telemetry import observer, prometheus
from app.telemetry.gpu_memory import add_gpu_memory
from app.telemetry.serving_metrics import ServingMetrics
from app.workers.crew import Crew
from app.workers.together import together

# TensorFlow Serving's figure.
_INITIAL_LOADS_PER_CPU = 4
# For the last lines, records and spans; within what the parent allows for closing.
_OBSERVER_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Server:
    """Serves the configured models, from `start` to `stop`.

    Attributes:
        rest: the ASGI application, to be served by whoever owns the event loop.
        rest_tls: for encrypted connections to it; None for plain ones.
        probes: the pages of `rest` that a health check without TLS needs.
        http_protocol: makes the protocol of each of its connections.
    """

    def __init__(self, options: Options, black_box: BlackBox | None = None, crew: Crew | None = None) -> None:
        """Make and wire the parts; nothing runs yet.

        Args:
            options: the flags.
            black_box: told what versions do, and knows which must not be loaded; a new one if None.
            crew: the workers that this server is one of; None for the only one.

        Raises:
            ServingError: a configuration file cannot be used, or a GPU is missing.
        """
        self._options = options
        self._black_box = black_box = black_box or BlackBox()
        self._metrics = ServingMetrics.make()
        self._together = together(crew)
        request_logs = RequestLogs(options, self._metrics.request_log_count, self._together.suffix)
        self._observer = observer.from_options(options, request_logs)
        self._board = self._together.board
        self._stores = Stores()
        self._cache = ModelCache(self._stores, options.model_cache_dir)
        self._batcher = batcher.from_options(options, self._metrics.batching)
        self._loader = Loader(
            options, self._metrics, self._cache, self._batcher, gpu_required=_gpu_is_required()
        )
        self._manager: Manager[Model] = Manager(
            self._loader.load,
            self._board,
            max_retries=options.max_num_load_retries,
            retry_seconds=options.load_retry_interval_micros / 1e6,
            load_threads=1 if black_box.one_at_a_time else options.num_load_threads,
            unload_threads=options.num_unload_threads,
            initial_load_threads=1 if black_box.one_at_a_time else _INITIAL_LOADS_PER_CPU * usable_cpus(),
            forgotten=self._cache.drop,
            black_box=black_box,
        )
        self._source = Sources(
            self._manager,
            options.file_system_poll_wait_seconds,
            self._stores,
            options.remote_poll_wait_seconds,
            skipped=black_box.convicted,
        )
        self._models = ServedModels(
            self._source,
            self._board,
            self._manager.labels,
            allow_labels_for_unavailable=options.allow_version_labels_for_unavailable_models,
            request_logs=request_logs,
        )
        self._config_poller: ConfigPoller | None = None
        self._readiness = Readiness(self._models.models, self._board)
        self._profiler = Profiler()
        self._security = Security(options)
        self._admission = Admission(options, self._metrics.ferry.refused, self._models.models)
        api = method_table(
            self._manager,
            self._board,
            options,
            self._together.attach(self._models, self._manager.look_again),
            self._metrics,
            admission=self._admission,
        )
        self._grpc = GrpcServers(
            api,
            self._profiler,
            self._readiness,
            options,
            self._security,
            observer=self._observer,
            admission=self._admission,
        )
        service = RestService(
            self._manager,
            self._board,
            options,
            self._metrics,
            self._models.models,
            admission=self._admission,
        )
        self.rest_tls: ssl.SSLContext | None = self._security.rest_context
        self.probes = probes(self._readiness)
        self.rest: falcon.asgi.App[Any, Any] = make_application(
            service,
            options,
            self._pages(),
            lambda: self._readiness.draining,
            guard=self._security.guard,
            observer=self._observer,
        )
        self.http_protocol = http_protocol(options, self._metrics.ferry.refused)

    def _pages(self) -> Mapping[str, Page]:
        """What REST serves beside the API. The monitoring file is read only for a REST port of its own."""
        options = self._options
        if options.rest_api_port in (0, options.port):
            return {}
        pages: dict[str, Page] = {}
        if options.metrics_path:
            pages[options.metrics_path] = self._metrics_page()
        pages |= self.probes
        file = options.monitoring_config_file
        config = monitoring.read_file(file) if file else None
        if config is not None:
            registry = self._together.shown(self._metrics.registry)
            pages[config.path] = Page(
                lambda accept: Content(prometheus.page(registry)),  # noqa: ARG005 - it has one form only
                slow=True,
                methods=(),
                takes_query=False,
            )
        return pages

    def _metrics_page(self) -> Page:
        ferry = self._metrics.ferry
        ferry.add_build_info(
            {"version": __version__, "tensorflow": tf.__version__, "python": platform.python_version()}
        )
        add_model_metrics(ferry.registry, self._readiness, self._board)
        add_gpu_memory(ferry.registry)
        self._observer.add_metrics(ferry.registry)
        page = self._together.page(self._metrics.registry, ferry.registry)
        return Page(lambda accept: Content(*page.render(accept)), slow=True)

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Load the models, then answer gRPC. Blocks until both are done, however long it takes.

        Args:
            loop: runs in another thread, for a gRPC transport to share; without it one is made.

        Raises:
            ServingError: the configuration or a model cannot be served, or the gRPC address cannot be bound.
        """
        for flag in without_effect(self._options):
            logger.warning("--%s has no effect: %s.", flag.name, flag.reason)
        if self._options.model_cache_dir:
            self._cache.open()
        if self._batcher is not None:
            self._batcher.start()
        for suspect in self._black_box.convicted.values():
            error = ServingError(Code.ABORTED, crash_text(suspect))
            logger.error("Servable %s is not loaded: %s", suspect, error)
            self._board.publish(suspect.model, VersionStatus(suspect.number, State.END, error))
        self._security.start()
        self._readiness.start()
        self._manager.start()
        self._source.start()
        others = self._together.start()
        models = self._configured_models() if others is None else others
        if models is None:
            logger.info("Taking no action for empty config.")
        else:
            self._models.apply(models, noun="servable", served_elsewhere=others is not None)
        self._manager.initial_loads_done()
        self._loader.requests_begin()
        self._together.join()
        if self._options.enable_profiler:
            logger.info("Profiler service is enabled")
        self._grpc.start(loop)
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
        """Tell everybody, and let running gRPC calls finish until `deadline` (monotonic); take no more."""
        self._readiness.begin_drain()
        self._together.leave()
        self._profiler.close()  # a profile would make everybody wait for its end
        if self._batcher is not None:
            self._batcher.drain()
        self._grpc.stop(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """End the threads and close the models; call it when nothing is served any more."""
        if self._config_poller is not None:
            self._config_poller.stop()
        self._security.stop()
        self._readiness.stop()
        self._source.stop()
        self._manager.stop()
        if self._batcher is not None:
            self._batcher.stop()
        self._observer.stop(time.monotonic() + _OBSERVER_SECONDS)
        self._together.stop()
        self._cache.close()
        self._stores.close()


def _gpu_is_required() -> bool:
    """Whether the image says that it is made for GPUs."""
    return os.environ.get("FERRY_REQUIRE_GPU", "") not in ("", "0")
