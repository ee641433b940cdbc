"""The `Input` message of Classify, Regress and MultiInference to the tensor that models take."""

from __future__ import annotations

from typing import Any

import numpy as np

from app.engine.dtypes import Array
from app.errors import invalid_argument


def example_tensor(message: Any) -> Array:
    """Serialise the examples of an `Input`.

    With a context every element is the context's bytes and then the example's: parsed as one
    message, the example's features win.

    Returns:
        A string vector, one element for each example.

    Raises:
        ServingError: INVALID_ARGUMENT if there are none.
    """
    context = b""
    examples: Any = ()
    if message.WhichOneof("kind") == "example_list":
        examples = message.example_list.examples
    elif message.WhichOneof("kind") == "example_list_with_context":
        context = message.example_list_with_context.context.SerializeToString()
        examples = message.example_list_with_context.examples
    if not examples:
        raise invalid_argument("Input is empty.")
    tensor = np.empty(len(examples), object)
    tensor[:] = [context + example.SerializeToString() for example in examples]
    return tensor
