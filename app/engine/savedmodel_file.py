"""The file of a SavedModel: read and parsed, so that every failure names the file and the cause."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from app.errors import Code, ServingError, cannot_read, not_found


def read(path: str) -> Any:
    """The SavedModel proto of the version directory `path`.

    Raises:
        ServingError: NOT_FOUND without `saved_model.pb` or `saved_model.pbtxt`, PERMISSION_DENIED for
            what cannot be read, DATA_LOSS for what does not parse, FAILED_PRECONDITION for a `path`
            that is a file.
    """
    for name, parse in (("saved_model.pb", _binary), ("saved_model.pbtxt", _text)):
        file = os.path.join(path, name)
        try:
            with open(file, "rb") as stream:
                content = stream.read()
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            raise ServingError(Code.FAILED_PRECONDITION, f"{path}; Not a directory") from None
        except OSError as error:
            raise cannot_read(file, error.strerror) from None
        try:
            saved_model = parse(content)
            if not saved_model.meta_graphs:  # also what many kinds of damage, and an empty file, parse as
                raise DecodeError("it holds no meta graph")
        except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
            raise ServingError(
                Code.DATA_LOSS,
                f"Can't parse {file} ({len(content)} bytes): {error}. The file is damaged or incomplete; "
                f"export or copy the model again.",
            ) from None
        return saved_model
    if os.path.exists(path) and not os.access(path, os.R_OK | os.X_OK):
        raise cannot_read(path, "Permission denied")
    raise not_found(
        "Specified file path does not appear to contain a SavedModel bundle "
        f"(should have a file called `saved_model.pb`)\nSpecified file path: {path}"
    )


def meta_graph(saved_model: Any, tags: Sequence[str]) -> Any:
    """The meta graph with exactly these tags; NOT_FOUND if there is none."""
    for candidate in saved_model.meta_graphs:
        if set(candidate.meta_info_def.tags) == set(tags):
            return candidate
    wanted = " ".join(sorted(tags))
    raise not_found(
        f"Could not find meta graph def matching supplied tags: {{ {wanted} }}. To inspect available "
        "tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`"
    )


def _binary(content: bytes) -> Any:
    return saved_model_pb2.SavedModel.FromString(content)


def _text(content: bytes) -> Any:
    return text_format.Parse(content, saved_model_pb2.SavedModel())
