"""A Keras model to a SavedModel."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec

from app.errors import Code, ServingError, invalid_argument


def convert(source: str, target: str) -> None:
    """Write the model in the `.keras` or `.h5` file `source` to the directory `target`.

    Raises:
        ServingError: UNIMPLEMENTED without Keras, INVALID_ARGUMENT for what Keras cannot load or export.
    """
    if find_spec("keras") is None:
        raise ServingError(
            Code.UNIMPLEMENTED,
            f"{source}: Keras is not installed. Install it: pip install 'ferry-model-server[keras]'",
        )
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras

        try:
            # Losses and optimisers may need code that is not here; serving needs neither.
            model = keras.models.load_model(source, compile=False)
            model.export(target, verbose=False)
        except Exception as error:  # Keras raises whatever its layers do
            raise invalid_argument(f"Keras cannot export {source}: {error}") from error
