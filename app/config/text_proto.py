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
        return _parse(_text(path), message)
    except _UnparsableError as error:
        place = f"{error.place}: " if error.place else ""
        logger.error(
            "Error parsing text-format %s: %s%s (in %s)", message.DESCRIPTOR.full_name, place, error, path
        )
        raise invalid_argument(f"Invalid protobuf file: '{path}'") from None


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
        return _parse(_text(path), message)
    except _UnparsableError as error:
        place = f":{error.place}" if error.place else ""
        raise invalid_argument(f"{path}{place}: {_LONG_WORD.sub('…', str(error))}") from None


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


class _UnparsableError(Exception):
    """Why a text is no message.

    Attributes:
        place: `LINE:COLUMN`; empty if that makes no sense.
    """

    def __init__(self, reason: object, place: str = "") -> None:
        super().__init__(reason)
        self.place = place


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError:
        raise not_found(f"{path}; No such file or directory") from None
    except IsADirectoryError:
        raise not_found(f"{path}; No such device") from None
    except UnicodeDecodeError as error:
        raise _UnparsableError(error) from None
    except OSError as error:
        raise ServingError(Code.PERMISSION_DENIED, f"{path}; {error.strerror}") from None
    if not text:
        raise invalid_argument(f"{path}; Invalid argument")
    return text


def _parse(text: str, message: M) -> M:
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        reason = str(error).partition(" : ")[2] or error
        raise _UnparsableError(reason, f"{error.GetLine()}:{error.GetColumn()}") from None
