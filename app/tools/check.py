"""`ferry check`: everything that would keep a server with these flags from serving, without serving."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tensorflow_serving.config import model_server_config_pb2

from app.command_line import parse, problems
from app.config import text_proto
from app.config.base_path import is_remote, normalised
from app.config.model_config import ModelConfig, check_platform, from_proto
from app.errors import ServingError
from app.lifecycle.storage import BasePathError, list_versions, read_entries
from app.options import Options, flags, without_effect
from app.tools.check_files import READERS
from app.tools.check_version import Problem, problem_of, version_problems
from app.tools.positions import Path, Position, positions

_LIST = "model_config_list[0]"


@dataclass
class Report:
    """What was found.

    Attributes:
        wrong_flags: the command line itself is wrong.
        problems: what else is, in configuration files and model directories.
        notes: what does not keep the server from serving.
        models: how many were looked at.
        versions: how many of theirs.
    """

    wrong_flags: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    models: int = 0
    versions: int = 0


def check(arguments: Sequence[str]) -> Report:
    """Look at everything that the server's flags `arguments` name. Never raises for what is wrong there."""
    # The parts log what they find, in the server's way; here every finding is a line of the report.
    logging.disable(logging.CRITICAL)
    try:
        return _check(arguments)
    finally:
        logging.disable(logging.NOTSET)


def _check(arguments: Sequence[str]) -> Report:
    line = parse(arguments)
    report = Report()
    names = [flag.name for flag in flags()]
    for value, name in line.bad_values:
        kind = next(flag.type for flag in flags() if flag.name == name)
        report.wrong_flags.append(Problem(f"--{name}", f"`{value}` is no value of type {kind}."))
    for argument in line.unknown:
        near = difflib.get_close_matches(argument.lstrip("-").partition("=")[0], names, 1)
        advice = f" Did you mean --{near[0]}?" if near else ""
        cause = "this is no flag, and a server would pass over it."
        if argument.removeprefix("--") in names:
            cause = "it lacks a value."
        report.wrong_flags.append(Problem(argument, cause + advice * (cause[0] == "t")))
    options = line.options
    for error in problems(options):
        report.wrong_flags.append(Problem("command line", error.message))
    report.notes += [f"--{flag.name} has no effect: {flag.reason}." for flag in without_effect(options)]
    for name, look in READERS.items():
        if path := getattr(options, name):
            report.problems += look(path, options)
    _models(options, report)
    return report


def _models(options: Options, report: Report) -> None:
    """Look at the models that the flags name."""
    if not options.model_config_file:
        if options.model_base_path:
            model = ModelConfig(options.model_name, options.model_base_path)
            _model(model, f"--model_base_path={options.model_base_path}", options, report)
        return
    path = options.model_config_file
    try:
        proto = text_proto.read(path, model_server_config_pb2.ModelServerConfig())
    except ServingError as error:
        report.problems.append(problem_of(path, error))
        return
    with open(path, encoding="utf-8") as stream:
        places = _Places(path, positions(stream.read()))
    if proto.WhichOneof("config") == "custom_model_config":
        report.problems.append(
            Problem(places.of("custom_model_config[0]"), "a custom model config is not supported.")
        )
    elif proto.WhichOneof("config") is None:
        report.notes.append(f"{path} names no model: the server would serve none.")
    seen: set[str] = set()
    for number, entry in enumerate(proto.model_config_list.config):
        block = f"config[{number}]"
        if entry.name in seen:
            cause = f"Illegal to list model {entry.name} multiple times in config list"
            report.problems.append(Problem(places.of(_LIST, block, "name[0]"), cause))
        seen.add(entry.name)
        sound = _sound(entry, block, places, report)
        if sound is not None:
            _labels(sound, block, places, options, report)
            _model(sound, places.of(_LIST, block, "base_path[0]"), options, report)


@dataclass(frozen=True)
class _Places:
    """Where the fields of the file at `path` stand."""

    path: str
    known: Mapping[Path, Position]

    def of(self, *field_path: str) -> str:
        """`FILE:LINE:COLUMN` of a field, or of the message that lacks it."""
        while field_path and field_path not in self.known:
            field_path = field_path[:-1]
        if not field_path:
            return self.path
        position = self.known[field_path]
        return f"{self.path}:{position.line}:{position.column}"

    def of_label(self, block: str, label: str) -> str:
        """The same of a version label."""
        for field_path, position in self.known.items():
            ours = field_path[:2] == (_LIST, block) and field_path[-1] == "key[0]"
            if ours and position.text[1:-1] == label:
                return self.of(*field_path[:-1])
        return self.of(_LIST, block)


def _sound(entry: Any, block: str, places: _Places, report: Report) -> ModelConfig | None:
    """The model of a `config` block; None, with all its problems reported, if it cannot be used."""
    # One thing at a time in an entry that is otherwise right: the first error of each is all of them.
    name = {"name": entry.name}
    right = {"base_path": "/", "model_platform": "tensorflow"}
    kind = model_server_config_pb2.ModelConfig
    platform = {"model_platform": entry.model_platform, "model_type": entry.model_type}
    rest = kind()
    rest.CopyFrom(entry)
    for member in (*right, "model_type"):
        rest.ClearField(member)
    for member, value in right.items():
        setattr(rest, member, value)
    tries = {
        "base_path[0]": kind(**name, **{**right, "base_path": entry.base_path}),
        "model_platform[0]": kind(**name, **{**right, **platform}),
        "": rest,
    }
    before = len(report.problems)
    for member, alone in tries.items():
        try:
            (model,) = from_proto(model_server_config_pb2.ModelConfigList(config=[alone]))
            check_platform(model)
        except ServingError as error:
            place = places.of(_LIST, block, *([member] if member else []))
            report.problems.append(Problem(place, error.message))
    if len(report.problems) > before:
        return None
    (model,) = from_proto(model_server_config_pb2.ModelConfigList(config=[entry]))
    return model


def _labels(model: ModelConfig, block: str, places: _Places, options: Options, report: Report) -> None:
    if model.labels and not options.allow_version_labels_for_unavailable_models:
        report.problems.append(
            Problem(
                places.of(_LIST, block, "version_labels[0]"),
                "labels are assigned before any version is available, so the start fails: give "
                "--allow_version_labels_for_unavailable_models.",
            )
        )
    if is_remote(model.base_path):
        return
    try:
        there = _listing(model).versions
    except BasePathError:
        return  # told with the base path
    served = model.policy.select(there)
    for label, version in sorted(model.labels.items()):
        if version not in served:
            cause = f"label {label} of model {model.name} names version {version}, which would not be served."
            report.problems.append(Problem(places.of_label(block, label), cause))


def _listing(model: ModelConfig) -> Any:
    path = normalised(model.base_path)
    return list_versions(path, (name for name, _ in read_entries(model.name, path)))


def _model(model: ModelConfig, place: str, options: Options, report: Report) -> None:
    """Look at the versions of `model` that would be served."""
    report.models += 1
    if is_remote(model.base_path):
        report.notes.append(f"{model.base_path} is remote and was not looked at.")
        return
    if not model.base_path.startswith("/"):
        return  # told with the flags
    try:
        listing = _listing(model)
    except BasePathError as error:
        report.problems.append(Problem(place, str(error)))
        return
    report.notes += listing.duplicates
    chosen = model.policy.select(listing.versions)
    if not listing.versions:
        cause = f"No versions of servable {model.name} found under base path {model.base_path}."
        report.problems.append(Problem(place, f"{cause} It has to hold directories such as 1."))
    for version in sorted((model.policy.specific or frozenset()) - listing.versions.keys()):
        cause = f"version {version} of model {model.name} is asked for, and {model.base_path} lacks it."
        report.problems.append(Problem(place, cause))
    for version in sorted(chosen):
        report.versions += 1
        report.problems += version_problems(os.path.abspath(listing.versions[version]), options)
