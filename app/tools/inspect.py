"""`ferry inspect`: what a model is, and requests that it answers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.engine.signature import Signature, TensorSpec
from app.tools.access import OPEN, Access
from app.tools.described import Described, Target, working_example
from app.tools.example import Example, examples
from app.tools.local_model import LocalModel
from app.tools.remote_model import is_address, remote_models
from app.tools.snippet import grpc_snippet

_FILE_OPS_NOTE = "They read or write files of the server while requests run."


def targets(
    place: str,
    *,
    tags: Sequence[str] = ("serve",),
    model: str = "",
    protocol: str = "",
    timeout: float = 10.0,
    access: Access = OPEN,
) -> Sequence[Target]:
    """The models at `place`: a path, or a server's address.

    Raises:
        ServingError: there is nothing at the path, or nobody at the address.
    """
    if os.path.exists(place) or not is_address(place):
        return [LocalModel(place, tags, model)]
    return remote_models(place, model, protocol, timeout, access)


def report(
    target: Target,
    *,
    rest: str = "localhost:8501",
    grpc: str = "localhost:8500",
    run: bool = False,
    access: Access = OPEN,
) -> dict[str, Any]:
    """Everything about one model, as JSON has it.

    Args:
        target: the model.
        rest: HOST:PORT of REST for the commands, where the target does not say it; `https://` for TLS.
        grpc: HOST:PORT of gRPC, likewise; `grpcs://` for TLS.
        run: have the examples answered, and show ones that were.
        access: what the server wants to see, for the commands.

    Raises:
        ServingError: it cannot be read.
    """
    found = target.describe()
    rest_url = found.rest_url or f"{rest if '://' in rest else f'http://{rest}'}/v1/models/{found.model}"
    address = found.grpc_address or grpc
    return {
        "source": found.source,
        "model": found.model,
        "version": found.version,
        **found.details,
        "signatures": {
            name: _signature(target, found, signature, _Addresses(rest_url, address, access), run=run)
            for name, signature in found.signatures.items()
        },
    }


@dataclass(frozen=True)
class _Addresses:
    """Where the commands go: the model's URL for REST, HOST:PORT for gRPC, and what they show there."""

    rest_url: str
    grpc: str
    access: Access


def _signature(
    target: Target, found: Described, signature: Signature, addresses: _Addresses, *, run: bool
) -> dict[str, Any]:
    facts = found.facts.get(signature.name)
    told: dict[str, Any] = {
        "method": signature.method_name,
        "inputs": _tensors(signature.inputs),
        "outputs": _tensors(signature.outputs),
    }
    if facts is not None:
        told["file ops"] = list(facts.file_ops)
    example: Example | None
    if run:
        example, error = working_example(target, signature, facts)
        told["run"] = error or "OK"
    else:
        example = next(examples(signature, facts), None)
    if example is None:
        return {**told, "curl": None, "grpc": None, "note": "No value can be made up for its inputs."}
    obstacle = example.rest_obstacle()
    told["curl"] = (
        None if obstacle else example.curl(addresses.rest_url, addresses.access.curl(addresses.rest_url))
    )
    told["grpc"] = grpc_snippet(example, found.model, None, addresses.grpc, addresses.access)
    if obstacle:
        told["note"] = obstacle
    elif facts is None and example.method != "predict" and not example.features:
        told["note"] = (
            "A server does not tell which features its tf.Examples have: inspect the directory, or use --run."
        )
    return told


def _tensors(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    return {
        alias: {
            "dtype": spec.dtype.enum_name,
            "shape": None if spec.shape is None else list(spec.shape),
            "tensor": spec.tensor,
        }
        for alias, spec in specs.items()
    }


def show(told: Mapping[str, Any], console: Any) -> None:
    """Print a report to a rich console; commands are printed as they are, to be copied."""
    from rich.text import Text

    version = "" if told["version"] is None else f", version {told['version']}"
    console.print(Text(f"{told['model']}{version}", style="bold"), Text(f"  {told['source']}", style="dim"))
    hidden = ("source", "model", "version", "signatures")
    for label, value in told.items():
        if label not in hidden and value not in ([], None):
            console.print(Text(f"  {label}: {_text(label, value)}"), soft_wrap=True)
    for name, signature in told["signatures"].items():
        console.print()
        console.print(Text(name, style="bold cyan"), Text(f"  {signature['method']}", style="dim"))
        _show_signature(signature, console)


def _show_signature(signature: Mapping[str, Any], console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("", "name", "type", "shape", "tensor", box=None, pad_edge=True)
    for side in ("inputs", "outputs"):
        for alias, tensor in signature[side].items():
            shape = "unknown" if tensor["shape"] is None else str(tensor["shape"])
            cells = (side[:-1], alias, tensor["dtype"], shape, tensor["tensor"])
            table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    said = {
        "file ops": f"file ops: {', '.join(signature.get('file ops', ()))}. {_FILE_OPS_NOTE}",
        "run": f"run: {signature.get('run')}",
        "note": signature.get("note"),
    }
    for label, text in said.items():
        if signature.get(label):
            style = "green" if signature[label] == "OK" else "yellow"
            console.print(Text(f"  {text}", style=style), soft_wrap=True)
    for kind in ("curl", "grpc"):
        if signature[kind]:
            console.out(f"\n{signature[kind]}", highlight=False)


def _text(label: str, value: Any) -> str:
    if label.endswith("bytes"):
        return f"{value:,}"
    if label == "all tags":
        return "; ".join(" ".join(tags) for tags in value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
