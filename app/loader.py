"""A version directory to a model that is ready to serve: loaded, and warm."""

from __future__ import annotations

from app.api.warmup import replay_warmup_file
from app.config.base_path import is_remote
from app.engine import savedmodel, tflite
from app.engine.model import Model
from app.engine.session_config import session_config
from app.engine.warmup import warm_up_from_signatures
from app.errors import Code, ServingError
from app.lifecycle.model_cache import ModelCache
from app.options import Options
from app.telemetry.serving_metrics import ServingMetrics


class Loader:
    """Loads versions as the flags say. Safe for any number of threads."""

    def __init__(self, options: Options, metrics: ServingMetrics, cache: ModelCache) -> None:
        """Read the flags; nothing is loaded yet.

        Args:
            options: the flags.
            metrics: told of loads, runs and warm-up.
            cache: fetches what is remote.

        Raises:
            ServingError: --tensorflow_session_config_file cannot be used.
        """
        self._options = options
        self._metrics = metrics
        self._cache = cache
        self._config = session_config(options)
        self._tags = options.saved_model_tags.split(",") if options.saved_model_tags else ["serve"]

    def load(self, name: str, version: int, path: str) -> Model:
        """Load the version in the directory or at the URI `path`, and make its slow first runs.

        Raises:
            ServingError: it cannot be fetched or loaded, or its warm-up file cannot be replayed.
        """
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
        model = self._read(path)
        try:
            self._warm_up(model, version, path)
        except BaseException:
            model.close()
            raise
        return model

    def _read(self, path: str) -> Model:
        options = self._options
        if options.prefer_tflite_model and tflite.is_in(path):
            pools, per_pool = options.num_tflite_pools, options.num_tflite_interpreters_per_pool
            return tflite.load(path, max(1, pools) * max(1, per_pool))
        return savedmodel.load(path, self._tags, self._config, metrics=self._metrics.tensorflow)

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
