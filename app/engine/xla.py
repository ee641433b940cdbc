"""XLA for one model, where measurements at its load show that it wins.

The model is loaded once more in a session whose graph TensorFlow may compile, and both run in turn until one
has won. TensorFlow compiles for each shape of inputs when it comes for the second time, and that run waits.
It could do so in the background (`--tf_xla_async_compilation`), but of the sessions that did, every second
one ended the process when it was closed.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

from tensorflow.core.protobuf import config_pb2

from app.engine.budget import Budget, KeepOriginalError
from app.engine.memory import give_back
from app.engine.session_model import SessionModel
from app.engine.trial import Trial, worthwhile
from app.errors import ServingError

# A win has to show so many times in a row, of so many: the first runs are those that compile.
_WINS, _MOST_ROUNDS = 2, 6
_LEAST_GAIN, _WORTHWHILE_GAIN = 0.97, 1.05
_NO_HURRY = Budget(math.inf)

logger = logging.getLogger(__name__)


def with_xla(config: Any) -> Any:
    """A copy of the `ConfigProto` `config` with which TensorFlow compiles what it can.

    It has an effect only in a process in whose environment TF_XLA_FLAGS allows that.
    """
    own = config_pb2.ConfigProto()
    own.CopyFrom(config)
    own.graph_options.optimizer_options.global_jit_level = config_pb2.OptimizerOptions.ON_2
    return own


def faster(model: SessionModel, load_again: Callable[[], SessionModel]) -> SessionModel:
    """The model with XLA if that wins and gives the same answers, or `model`; the other is closed.

    Args:
        model: to be compared with.
        load_again: loads it with XLA.
    """
    started = time.monotonic()
    compiled: SessionModel | None = None
    try:
        trial = Trial(model, [each for each in model.signatures.values() if each.is_callable])
        compiled = load_again()
        speeds = _speeds(trial, compiled)
        trial.compare(compiled, _NO_HURRY)
    except Exception as reason:
        if not isinstance(reason, KeepOriginalError | ServingError):
            logger.error("XLA failed", exc_info=reason)
        logger.info("XLA is not used: %s (%.3f s).", reason, time.monotonic() - started)
        if compiled is not None:
            compiled.close()
        give_back()
        return model
    model.close()
    give_back()
    logger.info("XLA is used; %s. It took %.3f s.", speeds, time.monotonic() - started)
    return compiled


def _speeds(trial: Trial, compiled: SessionModel) -> str:
    """What the log says of its gains, once it has won often enough.

    Raises:
        KeepOriginalError: it has not.
    """
    wins, reason = 0, KeepOriginalError()
    for _ in range(_MOST_ROUNDS):
        try:
            speeds = worthwhile(trial.gains(compiled, _NO_HURRY), _LEAST_GAIN, _WORTHWHILE_GAIN)
        except KeepOriginalError as error:
            wins, reason = 0, error
            continue
        wins += 1
        if wins == _WINS:
            return speeds
    raise reason
