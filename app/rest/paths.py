"""The REST path grammar: method and target to what is asked for.

The target is matched as received: query and fragment are part of it, and nothing is decoded but
the model name and the label that were found. TensorFlow Serving does the same.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote

from app.api.models import ModelSpec
from app.errors import ServingError, invalid_argument


class Action(enum.Enum):
    """What a request asks for."""

    PREDICT = "predict"
    CLASSIFY = "classify"
    REGRESS = "regress"
    STATUS = "status"
    METADATA = "metadata"
    MODELS = "models"


@dataclass(frozen=True)
class Route:
    """A request's action and model.

    Attributes:
        action: what is asked for.
        spec: of the model; its name is empty for MODELS, which asks for all.
        api: the action's word if it runs a model; empty if it does not.
    """

    action: Action
    spec: ModelSpec
    api: str = field(default="", compare=False)


class EmptyBadRequestError(Exception):
    """A 400 without a body: a version number above int64."""


_VERSION_OR_LABEL = r"(?:/(?:versions/(?P<version>[0-9]+)|labels/(?P<label>[^/:]+)))?"
_INFERENCE = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION_OR_LABEL}:(?P<verb>classify|regress|predict)", re.IGNORECASE
)
_GET = re.compile(
    rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION_OR_LABEL}(?P<metadata>/metadata)?", re.IGNORECASE
)
_INT64_MAX = (1 << 63) - 1


_KEPT = 1024
# Longer targets are not remembered: they are seldom, and would take memory.
_LONGEST_KEPT = 256


def route(method: str, target: str) -> Route:
    """Find out what `method` on `target` (path, query and fragment as received) asks for.

    Raises:
        ServingError: INVALID_ARGUMENT for what the grammar does not have.
        EmptyBadRequestError: the version is no int64.
    """
    return (_remembered if len(target) <= _LONGEST_KEPT else _route)(method, target)


def _route(method: str, target: str) -> Route:
    if method == "POST":
        match = _INFERENCE.fullmatch(target)
        # The pattern takes any letter case, the words do not.
        if match is None or match["verb"] not in (action.value for action in Action):
            raise _malformed(method, target)
        return Route(Action(match["verb"]), _spec(match), match["verb"])
    match = _GET.fullmatch(target) if method == "GET" else None
    if match is None:
        raise _malformed(method, target)
    if target.lower() == "/v1/models":
        return Route(Action.MODELS, ModelSpec(""))
    # `/v1/models/versions/1` reads as a model-less request, not as a model called `versions`.
    if match["name"] is None:
        raise invalid_argument("Missing model name in request.")
    return Route(Action.METADATA if match["metadata"] == "/metadata" else Action.STATUS, _spec(match))


_remembered = lru_cache(maxsize=_KEPT)(_route)


def _malformed(method: str, target: str) -> ServingError:
    return invalid_argument(f"Malformed request: {method} {target}")


def _spec(match: re.Match[str]) -> ModelSpec:
    version = None
    if match["version"] is not None:
        digits = match["version"].lstrip("0") or "0"  # int() refuses thousands of digits
        if len(digits) > len(str(_INT64_MAX)) or int(digits) > _INT64_MAX:
            raise EmptyBadRequestError
        version = int(digits)
    label = None if match["label"] is None else unquote(match["label"])
    return ModelSpec(unquote(match["name"]), version, label)
