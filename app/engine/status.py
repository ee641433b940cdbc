"""TensorFlow's exceptions to `ServingError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from app.errors import Code, ServingError


@contextmanager
def tensorflow_errors() -> Iterator[None]:
    """Let TensorFlow's errors out of the block as `ServingError`, with their code and own text.

    Raises:
        ServingError: for any `tf.errors.OpError` in the block.
    """
    try:
        yield
    except tf.errors.OpError as error:
        raise ServingError(Code(error.error_code), error.message) from error
