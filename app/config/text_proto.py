"""Reads a text proto from a file, with TensorFlow Serving's answers to what can be wrong with it."""

from __future__ import annotations

import logging
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from app.errors import Code, ServingError, invalid_argument, not_found

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)


def read(path: str, message: M) -> M:
    """Parse the file at `path` into `message`.

    A file of comments and white space gives the empty message.

    Returns:
        `message`.

    Raises:
        ServingError: NOT_FOUND for a missing file or a directory, INVALID_ARGUMENT for an empty file
            or one that does not parse; where it does not, the log names line and column.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError:
        raise not_found(f"{path}; No such file or directory") from None
    except IsADirectoryError:
        raise not_found(f"{path}; No such device") from None
    except UnicodeDecodeError as error:
        logger.error("Error parsing text-format %s in %s: %s", message.DESCRIPTOR.full_name, path, error)
        raise invalid_argument(f"Invalid protobuf file: '{path}'") from None
    except OSError as error:
        raise ServingError(Code.PERMISSION_DENIED, f"{path}; {error.strerror}") from None
    if not text:
        raise invalid_argument(f"{path}; Invalid argument")
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        logger.error(
            "Error parsing text-format %s: %s:%s: %s (in %s)",
            message.DESCRIPTOR.full_name,
            error.GetLine(),
            error.GetColumn(),
            str(error).partition(" : ")[2] or error,
            path,
        )
        raise invalid_argument(f"Invalid protobuf file: '{path}'") from None
