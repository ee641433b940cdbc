"""`ferry export`: a model of any form to BASE_PATH/NAME/VERSION, where a running server finds it whole."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.api.warmup import replay_warmup_file
from app.config.base_path import is_remote
from app.errors import Code, ServingError, invalid_argument
from app.lifecycle.storage import BasePathError, list_versions, read_entries
from app.telemetry.serving_metrics import ServingMetrics
from app.tools import export_graph, export_keras, export_savedmodel
from app.tools.described import working_example
from app.tools.inputs import Request, read_requests
from app.tools.local_model import LocalModel, sizes
from app.tools.warmup_file import write_warmup_file

STAGING = ".ferry-export-"
STEPS = 5
_TRIES = 100


@dataclass(frozen=True)
class Wish:
    """What is to be exported, and where to.

    Attributes:
        source: a file or directory.
        base_path: a local directory; it holds one directory for each model.
        name: of the model.
        version: a positive number; None for the highest there and one more.
        inputs: `ALIAS` to the name of a tensor, for graphs without signatures.
        outputs: likewise.
        signatures: of a SavedModel, those to keep (all if empty); of a graph, the name of the only one.
        tags: of the meta graph in a SavedModel.
        warmup: files of example inputs.
        run: run what was exported before it is published; loaded it is in any case.
        dry: do everything but publish.
    """

    source: str
    base_path: str
    name: str
    version: int | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    signatures: tuple[str, ...] = ()
    tags: tuple[str, ...] = ("serve",)
    warmup: tuple[str, ...] = ()
    run: bool = True
    dry: bool = False


@dataclass(frozen=True)
class Exported:
    """What became of it.

    Attributes:
        path: the version directory; with `dry`, the one that it would have been.
        version: its number.
        form: what the source was.
        bytes: of all files.
        signatures: by name `OK`, or why the signature was not run.
        warmup_records: how many were written or kept, and replayed.
        seconds: what it took.
    """

    path: str
    version: int
    form: str
    bytes: int
    signatures: dict[str, str]
    warmup_records: int
    seconds: float


def export(wish: Wish, begun: Callable[[str], None] = lambda text: None) -> Exported:  # noqa: ARG005
    """Convert, add warm-up records, load, run and publish.

    The version is written beside its place, under a name that is no version, and renamed into it.

    Args:
        wish: what and where.
        begun: told of each of the `STEPS` before it begins.

    Raises:
        ServingError: the source cannot be used, the result does not load or run, or the version is there
            already. Then nothing was published, and nothing is left behind.
    """
    started = time.monotonic()
    _check(wish)
    form = form_of(wish.source)
    directory = os.path.join(wish.base_path, wish.name)
    _free_version(directory, wish.version)
    staging = _staging(directory, dry=wish.dry)
    try:
        begun(f"converting ({form})")
        _convert(form, wish, staging)
        model = LocalModel(staging, ("serve",) if form != "SavedModel" else wish.tags, wish.name)
        begun("writing warm-up records")
        described = model.describe()
        requests: list[Request] = []
        for file in wish.warmup:
            default = (
                "" if "serving_default" in described.signatures else next(iter(described.signatures), "")
            )
            requests += read_requests(file, described.signatures, default)
        if requests:
            write_warmup_file(staging, requests, wish.name)
        begun("loading")
        try:
            loaded = model.loaded()
            begun("running")
            metrics = ServingMetrics.make()
            replay_warmup_file(loaded, 0, staging, metrics)
            records = _count(metrics)
            ran = _run(wish, model, replayed=records)
        finally:
            model.close()
        begun("publishing")
        total = sizes(staging)["bytes"]
        path, version = _publish(staging, directory, wish)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Exported(path, version, form, total, ran, records, time.monotonic() - started)


def form_of(source: str) -> str:
    """What `source` is: `Keras model`, `checkpoint`, `frozen graph` or `SavedModel`; raises ServingError."""
    if source.endswith((".keras", ".h5", ".hdf5")):
        form = "Keras model"
    elif source.endswith((".meta", ".index")) or os.path.exists(f"{source}.index"):
        return "checkpoint"
    elif source.endswith((".pb", ".pbtxt")) and not os.path.basename(source).startswith("saved_model."):
        form = "frozen graph"
    elif os.path.isdir(source) and os.path.exists(os.path.join(source, "checkpoint")):
        return "checkpoint"
    else:
        form = "SavedModel"
    if not os.path.exists(source):
        raise ServingError(
            Code.NOT_FOUND,
            f"{source} is not there. Give a .keras, .h5 or frozen .pb file, the directory or prefix of a "
            "checkpoint, or the directory of a SavedModel.",
        )
    return form


def _check(wish: Wish) -> None:
    if is_remote(wish.base_path):
        raise invalid_argument(
            f"{wish.base_path}: only a local directory can be published to; export to one and upload it."
        )
    if not wish.name or "/" in wish.name or wish.name.startswith("."):
        raise invalid_argument(f"`{wish.name}` cannot be a model's name.")
    if wish.version is not None and not 0 < wish.version < 1 << 63:
        raise invalid_argument(f"--version has to be a positive number; was {wish.version}.")


def _convert(form: str, wish: Wish, staging: str) -> None:
    graph = form in ("checkpoint", "frozen graph")
    if (wish.inputs or wish.outputs) and not graph:
        raise invalid_argument(f"--input and --output are for graphs without signatures; this is a {form}.")
    if form == "Keras model":
        if wish.signatures:
            raise invalid_argument("--signature is not for Keras models: they export serving_default.")
        export_keras.convert(wish.source, staging)
    elif form == "SavedModel":
        export_savedmodel.convert(wish.source, staging, wish.tags, wish.signatures)
    else:
        if len(wish.signatures) > 1:
            raise invalid_argument("--signature: a graph gets one signature, whose name this is.")
        convert = export_graph.convert_checkpoint if form == "checkpoint" else export_graph.convert_frozen
        convert(wish.source, staging, wish.inputs, wish.outputs, *wish.signatures)


def _count(metrics: ServingMetrics) -> int:
    """How many warm-up records were replayed."""
    cells: Any = metrics.warmup_records.cells()
    return sum(count for _, count in cells)


def _run(wish: Wish, model: LocalModel, *, replayed: int) -> dict[str, str]:
    """By signature `OK`, or why it was not run; FAILED_PRECONDITION if nothing could be run."""
    described = model.describe()
    if not wish.run:
        return dict.fromkeys(described.signatures, "not run")
    ran = {}
    for name, signature in described.signatures.items():
        _, error = working_example(model, signature, described.facts.get(name))
        ran[name] = " ".join(error.split()) or "OK"
    if "OK" not in ran.values() and not replayed:
        reasons = "; ".join(f"{name}: {error}" for name, error in ran.items()) or "it has no signatures"
        raise ServingError(
            Code.FAILED_PRECONDITION,
            f"The exported model answered no made-up request ({reasons}). Give one that it answers with "
            "--warmup, or publish it unproven with --skip-run.",
        )
    return ran


def _staging(directory: str, *, dry: bool) -> str:
    """A new directory to write to: on the file system of the models, unless nothing is published."""
    if dry:
        return tempfile.mkdtemp(prefix=STAGING)
    staging = os.path.join(directory, f"{STAGING}{uuid.uuid4().hex}")
    try:
        os.makedirs(staging)  # mkdtemp would let nobody but this user read it
    except OSError as error:
        raise ServingError(
            Code.PERMISSION_DENIED, f"{directory} cannot be written to: {error.strerror}."
        ) from None
    return staging


def _publish(staging: str, directory: str, wish: Wish) -> tuple[str, int]:
    for _ in range(_TRIES):
        version = _free_version(directory, wish.version)
        path = os.path.join(directory, str(version))
        if wish.dry:
            return path, version
        try:
            os.rename(staging, path)
        except OSError as error:
            if not os.path.exists(path):
                raise ServingError(Code.INTERNAL, f"{path}: {error.strerror}") from None
            continue  # somebody published it meanwhile
        return path, version
    raise ServingError(Code.ABORTED, f"{directory}: others publish versions all the time.")


def _free_version(directory: str, wanted: int | None) -> int:
    """`wanted` if no version has it, else the highest and one more; ALREADY_EXISTS if `wanted` is taken."""
    try:
        versions = list_versions(directory, (name for name, _ in read_entries("", directory))).versions
    except BasePathError:
        versions = {}
    if wanted is None:
        return max([0, *versions]) + 1
    if wanted in versions:
        raise ServingError(
            Code.ALREADY_EXISTS,
            f"{versions[wanted]} is there already and is not overwritten: servers take a version as "
            "unchanging. Publish another one.",
        )
    return wanted


def signature_pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """Tensor by alias, of texts such as `ALIAS=TENSOR` or `TENSOR`, whose node then names it.

    Raises:
        ServingError: INVALID_ARGUMENT for other texts.
    """
    pairs: dict[str, str] = {}
    for text in given:
        alias, equals, tensor = text.partition("=")
        if not equals:
            alias, tensor = text.partition(":")[0].rpartition("/")[2], text
        if not alias or not tensor or alias in pairs:
            raise invalid_argument(
                f"{option} {text}: write NAME=TENSOR, such as x=input/x:0, each name once."
            )
        pairs[alias] = tensor if ":" in tensor else f"{tensor}:0"
    return pairs
