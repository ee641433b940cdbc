"""Reads a text proto from a file, with TensorFlow Serving's answers to what can be wrong with it."""

from __future__ import annotations

import logging
import re
from typing import Any, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import Message

from app.errors import Code, ServingError, invalid_argument, not_found

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
# Longer than any field's name: a line of a key, which errors must not quote.
_LONG_WORD = re.compile(r"[^\s\"']{32,}")


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
        return _parse(path, message)
    except TextError as error:
        name, place = message.DESCRIPTOR.full_name, f"{error.line}:{error.column}: " if error.line else ""
        logger.error("Error parsing text-format %s: %s%s (in %s)", name, place, error.cause, path)
        raise


def read_located(path: str, message: M) -> M:
    """Parse the file at `path` into `message`; for files whose errors TensorFlow Serving does not word.

    Logs nothing, so that it may be called again and again.

    Returns:
        `message`.

    Raises:
        ServingError: NOT_FOUND for a missing file or a directory, INVALID_ARGUMENT for an empty file or,
            naming file, line and column, one that does not parse.
    """
    try:
        return _parse(path, message)
    except TextError as error:
        place = f":{error.line}:{error.column}" if error.line else ""
        raise invalid_argument(f"{path}{place}: {_LONG_WORD.sub('…', error.cause)}") from None


def message_class(file: str, name: str) -> type[Any]:
    """The class of a message that no package holds, from a pool of its own: others may bring it too.

    Args:
        file: a FileDescriptorProto as text.
        name: the full name of one of its messages.
    """
    pool = descriptor_pool.DescriptorPool()
    proto = text_format.Parse(file, descriptor_pb2.FileDescriptorProto())
    pool.AddSerializedFile(proto.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError:
        raise not_found(f"{path}; No such file or directory") from None
    except IsADirectoryError:
        raise not_found(f"{path}; No such device") from None
    except UnicodeDecodeError as error:
        raise TextError(path, 0, 0, f"it is not UTF-8 text: {error}") from None
    except OSError as error:
        raise ServingError(Code.PERMISSION_DENIED, f"{path}; {error.strerror}") from None
    if not text:
        raise invalid_argument(f"{path}; Invalid argument")
    return text


def _parse(path: str, message: M) -> M:
    try:
        return text_format.Parse(_text(path), message)
    except text_format.ParseError as error:
        cause = str(str(error).partition(" : ")[2] or error)
        raise TextError(path, error.GetLine() or 0, error.GetColumn() or 0, cause) from None
