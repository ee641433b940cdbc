"""Reads a text proto from a file, with TensorFlow Serving's answers to what can be wrong with it."""

from __future__ import annotations

import logging
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from app.errors import Code, ServingError, invalid_argument, not_found

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)


class TextError(ServingError):
    """INVALID_ARGUMENT for a file whose text does not parse.

    Attributes:
        path: the file.
        line: where, from 1; 0 if that is not known.
        column: where in the line, from 1; 0 if that is not known.
        cause: what is wrong there.
    """

    def __init__(self, path: str, line: int, column: int, cause: str) -> None:
        """Keep them; the message is TensorFlow Serving's and tells only the file."""
        super().__init__(Code.INVALID_ARGUMENT, f"Invalid protobuf file: '{path}'")
        self.path = path
        self.line = line
        self.column = column
        self.cause = cause


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
        raise TextError(path, 0, 0, f"it is not UTF-8 text: {error}") from None
    except OSError as error:
        raise ServingError(Code.PERMISSION_DENIED, f"{path}; {error.strerror}") from None
    if not text:
        raise invalid_argument(f"{path}; Invalid argument")
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        cause = str(str(error).partition(" : ")[2] or error)
        logger.error(
            "Error parsing text-format %s: %s:%s: %s (in %s)",
            message.DESCRIPTOR.full_name,
            error.GetLine(),
            error.GetColumn(),
            cause,
            path,
        )
        raise TextError(path, error.GetLine() or 0, error.GetColumn() or 0, cause) from None
