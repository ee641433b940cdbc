"""TensorFlow's exceptions to `ServingError`."""

from __future__ import annotations

from types import TracebackType

import tensorflow as tf

from app.errors import Code, ServingError


class tensorflow_errors:  # noqa: N801 - a context manager, used like a function
    """Let TensorFlow's errors out of the block as `ServingError`, with their code and own text.

    Raises:
        ServingError: for any `tf.errors.OpError` in the block.
    """

    # A class, not a generator, which costs every model call a microsecond more.
    __slots__ = ()

    def __enter__(self) -> None:
        """Nothing needs preparing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Turn TensorFlow's errors into ours."""
        if isinstance(error, tf.errors.OpError):
            raise serving_error(error) from error


def serving_error(error: tf.errors.OpError) -> ServingError:
    """The same code and text as a `ServingError`."""
    return ServingError(Code(error.error_code), error.message)
