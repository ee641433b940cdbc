"""The first run of a graph is slow: it is made at load, before a request can meet it."""

from __future__ import annotations

import logging
import time

from app.engine.model import Model
from app.engine.signature import example_input
from app.errors import ServingError

logger = logging.getLogger(__name__)


def warm_up_from_signatures(model: Model) -> None:
    """Run every signature once on an example made from its declaration, where that works.

    A signature that cannot be run on such an example (one that parses its input, say) is left
    cold; only the log says so.
    """
    for signature in model.signatures.values():
        inputs = {alias: example_input(spec) for alias, spec in signature.inputs.items()}
        values = {alias: value for alias, value in inputs.items() if value is not None}
        if not signature.is_callable or len(values) != len(inputs):
            continue
        started = time.monotonic()
        try:
            model.run(signature, values)
        except ServingError as error:
            logger.info("Signature %s stays cold: %s", signature.name, str(error).splitlines()[0])
        else:
            logger.info("Signature %s warmed up in %.3f s.", signature.name, time.monotonic() - started)
