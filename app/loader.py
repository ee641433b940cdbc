"""A version directory to a model that is ready to serve: loaded, and warm."""

from __future__ import annotations

import logging

from app.api.warmup import replay_warmup_file
from app.engine import savedmodel
from app.engine.model import Model
from app.engine.optimise import Optimisation
from app.engine.session_config import session_config
from app.engine.warmup import warm_up_from_signatures
from app.options import Options
from app.telemetry.serving_metrics import ServingMetrics

logger = logging.getLogger(__name__)


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
        self._optimisation = _optimisation(options)
        self._tags = options.saved_model_tags.split(",") if options.saved_model_tags else ["serve"]

    def load(self, name: str, version: int, path: str) -> Model:
        """Load the version in the directory `path` and make its slow first runs.

        Raises:
            ServingError: it cannot be loaded, or its warm-up file cannot be replayed.
        """
        del name
        model = savedmodel.load(
            path,
            self._tags,
            self._config,
            metrics=self._metrics.tensorflow,
            optimisation=self._optimisation,
        )
        try:
            self._warm_up(model, version, path)
        except BaseException:
            model.close()
            raise
        return model

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
    return Optimisation(bfloat16=precision == "bfloat16")
