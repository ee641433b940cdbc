"""What `inspect`, `bench` and `export` know of a model, wherever it is, and how they ask it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from app.api.tensor_proto import to_array
from app.engine import dtypes
from app.engine.signature import Signature, spec_of
from app.tools.example import Example, examples, feature_values, serialised
from app.tools.graph import Facts, Feature

_MOST_TRIES = 64
_MISSING = re.compile(r"Feature: (.+?) \(data type: (float|int64|string)\) is required")
_WRONG_COUNT = re.compile(r"Key: (.+?), Index: .*?but output shape: \[([0-9,]*)\]")


@dataclass(frozen=True)
class Described:
    """A model version.

    Attributes:
        source: where it is: a path or an address.
        model: the name for requests.
        version: its number; None if its directory has none.
        signatures: by name.
        facts: what is known of each signature's graph, by name; empty for a running server.
        details: whatever else there is to say, by label.
        rest_url: of the model, for requests by REST.
        grpc_address: grpc://HOST:PORT or, with TLS, grpcs://HOST:PORT, for requests by gRPC.
    """

    source: str
    model: str
    version: int | None
    signatures: Mapping[str, Signature]
    facts: Mapping[str, Facts] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    rest_url: str = ""
    grpc_address: str = ""


class Target(Protocol):
    """A model that can be looked at and asked."""

    def describe(self) -> Described:
        """What is known of it; raises ServingError."""

    def ask(self, example: Example) -> str:
        """Have `example` answered; the error's text, or an empty one."""


def signatures_of(protos: Mapping[str, Any]) -> dict[str, Signature]:
    """`Signature`s of SignatureDef protos, by name, sorted."""
    return {
        name: Signature(
            name=name,
            method_name=proto.method_name,
            inputs={alias: spec_of(alias, proto.inputs[alias]) for alias in sorted(proto.inputs)},
            outputs={alias: spec_of(alias, proto.outputs[alias]) for alias in sorted(proto.outputs)},
            defaults={alias: to_array(value) for alias, value in proto.defaults.items()},
        )
        for name, proto in sorted(protos.items())
    }


def working_example(
    target: Target, signature: Signature, facts: Facts | None, batch: int = 1
) -> tuple[Example | None, str]:
    """The first made-up request that `target` answers.

    Features that a server's errors say are missing are added, as its graph cannot be seen.

    Returns:
        The example, or the likeliest one with the error that it got; None if none can be made up.
    """
    first: tuple[Example | None, str] = (None, "No value can be made up for its inputs.")
    for example in examples(signature, facts, batch):
        tried, error = example, target.ask(example)
        for _ in range(_MOST_TRIES):
            better = _taught(tried, error) if error else None
            if better is None:
                break
            tried, error = better, target.ask(better)
        if not error:
            return tried, ""
        if first[0] is None:
            first = tried, error
    return first


def _taught(example: Example, error: str) -> Example | None:
    """`example` with the feature that `error` asks for; None if it asks for none, or for the same again."""
    if missing := _MISSING.search(error):
        name, kind = missing.group(1), missing.group(2).replace("string", "bytes")
        feature = Feature(name, kind, 1)
    elif (wrong := _WRONG_COUNT.search(error)) and wrong.group(1) in example.features:
        name = wrong.group(1)
        count = 1
        for size in filter(None, wrong.group(2).split(",")):
            count *= int(size)
        kinds = {float: "float", int: "int64"}
        feature = Feature(name, kinds.get(type(example.features[name][0]), "bytes"), count)
    else:
        return None
    features = {**example.features, **feature_values((feature,))}
    if features == example.features:
        return None
    text = serialised(features)  # the strings that predict sends are tf.Examples then
    inputs = {
        alias: replace(value, value=text) if value.dtype == dtypes.STRING else value
        for alias, value in example.inputs.items()
    }
    return replace(example, inputs=inputs, features=features)
