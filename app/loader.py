"""A version directory to a model that is ready to serve: loaded, batched if the flags say so, and warm."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack

from app.api.warmup import replay_warmup_file
from app.config.base_path import is_remote
from app.engine import savedmodel, tflite
from app.engine.batching.batcher import Batcher
from app.engine.compute_threads import ComputeThreads
from app.engine.gpus import replica_devices
from app.engine.load_priority import LoadPriority
from app.engine.model import Model
from app.engine.optimise import Optimisation
from app.engine.replicas import ReplicatedModel
from app.engine.session_config import in_callers_thread, session_config
from app.engine.warmup import warm_up_from_signatures
from app.errors import Code, ServingError
from app.lifecycle.model_cache import ModelCache
from app.options import Options
from app.telemetry import logs
from app.telemetry.serving_metrics import ServingMetrics

logger = logging.getLogger(__name__)


class Loader:
    """Loads versions as the flags say. Safe for any number of threads."""

    def __init__(
        self,
        options: Options,
        metrics: ServingMetrics,
        cache: ModelCache,
        batcher: Batcher | None = None,
        *,
        gpu_required: bool = False,
        device_kind: str = "GPU",
    ) -> None:
        """Read the flags and look for devices; nothing is loaded yet.

        Args:
            options: the flags.
            metrics: told of loads, runs and warm-up.
            cache: fetches what is remote.
            batcher: lets requests run in batches; None for one by one.
            gpu_required: refuse to begin without a GPU, unless --allow_no_gpu is given.
            device_kind: what models are replicated on; `CPU` stands for GPUs where there are none.

        Raises:
            ServingError: --tensorflow_session_config_file cannot be used, or the GPUs are not what the
                flags need.
        """
        self._options = options
        self._metrics = metrics
        self._cache = cache
        self._batcher = batcher
        self._priority = LoadPriority(enabled=options.loads_yield_to_requests)
        self._config = session_config(options)
        self._in_callers_thread = in_callers_thread(options, self._config)
        self._optimisation = _optimisation(options)
        self._compute = ComputeThreads()
        # The first session of a process makes TensorFlow's own threads: they are as nice as who makes it.
        self._devices = self._compute.run(
            replica_devices, options, self._config, required=gpu_required, kind=device_kind
        )
        logger.info(
            "TensorFlow: %d intra-op and %d inter-op threads; graphs run in %s; models are placed on %s.",
            self._config.intra_op_parallelism_threads,
            self._config.inter_op_parallelism_threads,
            "the requests' threads" if self._in_callers_thread else "the inter-op threads",
            ", ".join(self._devices) if len(self._devices) > 1 else "no device in particular",
        )
        self._tags = options.saved_model_tags.split(",") if options.saved_model_tags else ["serve"]

    def requests_begin(self) -> None:
        """From now on loads yield to requests wherever both want the processor."""
        self._priority.requests_begin()

    def load(self, name: str, version: int, path: str) -> Model:
        """Load the version in the directory or at the URI `path`, and make its slow first runs.

        A SavedModel is loaded once for each device.

        Raises:
            ServingError: it cannot be fetched or loaded, or its warm-up file cannot be replayed.
        """
        start, code = time.monotonic(), Code.INTERNAL
        self._priority.load_begins()
        try:
            with logs.about(model=name, version=version):
                model = self._fetch_and_load(name, version, path)
            code = Code.OK
            self._priority.loaded()
        except ServingError as error:
            code = error.code
            raise
        finally:
            self._metrics.ferry.load_seconds.observe(time.monotonic() - start, name, code.name)
        return model

    def _fetch_and_load(self, name: str, version: int, path: str) -> Model:
        if not is_remote(path):
            return self._load(version, path)
        fetched = self._cache.fetch(name, version, path)
        try:
            return self._load(version, fetched)
        except ServingError as error:
            if error.code is Code.DATA_LOSS:
                self._cache.discard(path)
            # Users know the version by its URI.
            raise ServingError(error.code, error.message.replace(fetched, path)) from error

    def _load(self, version: int, path: str) -> Model:
        options = self._options
        if options.prefer_tflite_model and tflite.is_in(path):
            self._priority.yield_to_requests()
            pools, per_pool = options.num_tflite_pools, options.num_tflite_interpreters_per_pool
            return self._ready(tflite.load(path, max(1, pools) * max(1, per_pool)), version, path)
        if len(self._devices) == 1:
            return self._ready(self._read(path, self._devices[0]), version, path)
        with ExitStack() as loaded:
            replicas = []
            for device in self._devices:
                replicas.append(self._read(path, device))
                loaded.callback(replicas[-1].close)
                self._warm_up(replicas[-1], version, path)
            model = self._batched(ReplicatedModel(replicas), path)
            loaded.pop_all()  # all is well: they are not closed here
        return model

    def _read(self, path: str, device: str) -> Model:
        return savedmodel.load(
            path,
            self._tags,
            self._config,
            metrics=self._metrics.tensorflow,
            device=device,
            in_callers_thread=self._in_callers_thread,
            optimisation=self._optimisation,
            before_restore=self._priority.yield_to_requests,
            refuse_external_ops=self._options.refuse_models_with_external_ops,
            compute=self._compute,
        )

    def _ready(self, model: Model, version: int, path: str) -> Model:
        """`model`, batched and warm; it is closed if that fails."""
        try:
            model = self._batched(model, path)
            self._warm_up(model, version, path)
        except BaseException:
            model.close()
            raise
        return model

    def _batched(self, model: Model, path: str) -> Model:
        return model if self._batcher is None else self._batcher.wrap(model, path)

    def _warm_up(self, model: Model, version: int, path: str) -> None:
        options = self._options
        if not options.enable_model_warmup:
            return
        replayed = replay_warmup_file(
            model,
            version,
            path,
            self._metrics,
            repetitions=options.num_request_iterations_for_warmup,
            check_method_name=options.enable_signature_method_name_check,
        )
        if not replayed and options.enable_automatic_warmup:
            warm_up_from_signatures(model)


def _optimisation(options: Options) -> Optimisation | None:
    """What the flags say; a precision that is not there is only logged, as in TensorFlow Serving."""
    precision = options.mixed_precision
    if precision not in ("", "bfloat16"):
        logger.error("%s auto mixed precision is not supported. Valid option: bfloat16", precision)
    if not options.enable_model_optimization:
        return None
    return Optimisation(
        bfloat16=precision == "bfloat16",
        xla=options.xla_cpu_compilation_enabled,
        load_factor=options.model_optimization_load_factor,
    )
