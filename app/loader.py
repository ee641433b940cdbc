"""A version directory to a model that is ready to serve: loaded, and warm."""

from __future__ import annotations

import time

from app.api.warmup import replay_warmup_file
from app.engine import savedmodel, tflite
from app.engine.model import Model
from app.engine.session_config import session_config
from app.engine.warmup import warm_up_from_signatures
from app.errors import Code, ServingError
from app.options import Options
from app.telemetry.serving_metrics import ServingMetrics


class Loader:
    """Loads versions as the flags say. Safe for any number of threads."""

    def __init__(self, options: Options, metrics: ServingMetrics) -> None:
        """Read the flags; nothing is loaded yet.

        Raises:
            ServingError: --tensorflow_session_config_file cannot be used.
        """
        self._options = options
        self._metrics = metrics
        self._config = session_config(options)
        self._tags = options.saved_model_tags.split(",") if options.saved_model_tags else ["serve"]

    def load(self, name: str, version: int, path: str) -> Model:
        """Load the version in the directory `path` and make its slow first runs.

        Raises:
            ServingError: it cannot be loaded, or its warm-up file cannot be replayed.
        """
        start, code = time.monotonic(), Code.INTERNAL
        try:
            model = self._load(version, path)
            code = Code.OK
        except ServingError as error:
            code = error.code
            raise
        finally:
            self._metrics.ferry.load_seconds.observe(time.monotonic() - start, name, code.name)
        return model

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
