"""The files that flags name, each read as the server would read it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from app.config import auth_tokens, batching, monitoring, tls
from app.engine.session_config import session_config
from app.errors import ServingError
from app.options import Options
from app.tools.check_version import Problem, problem_of
from app.tools.positions import positions


def _batching(path: str, options: Options) -> Iterator[Problem]:
    try:
        parameters = batching.read_file(path)
    except ServingError as error:
        yield problem_of(path, error)
        return
    checks = [parameters.check_pool]
    if not options.enable_per_model_batching_parameters:
        checks.append(parameters.check_queues)
    for look in checks:
        try:
            look()
        except ServingError as error:
            yield Problem(_at_field(path, error.message), error.message)


def _monitoring(path: str, options: Options) -> Iterator[Problem]:
    del options
    try:
        config = monitoring.read_file(path)
    except ServingError as error:
        yield problem_of(path, error)
        return
    if config is not None and not config.path.startswith("/"):
        yield Problem(_at_field(path, "path"), f"the path `{config.path}` does not start with `/`.")


def _session(path: str, options: Options) -> Iterator[Problem]:
    try:
        session_config(options)
    except ServingError as error:
        yield problem_of(path, error)


def _tls(path: str, options: Options) -> Iterator[Problem]:
    del options
    try:
        tls.read_file(path).context()
    except ServingError as error:
        yield _placed(path, error)


def _tokens(path: str, options: Options) -> Iterator[Problem]:
    del options
    try:
        auth_tokens.read_file(path)
    except ServingError as error:
        yield _placed(path, error)


def _placed(path: str, error: ServingError) -> Problem:
    """`error`, whose message may begin with the file and its place there."""
    place = re.match(re.escape(path) + r"(:\d+:\d+)?(?=: )", error.message)
    return Problem(place[0], error.message[place.end() + 2 :]) if place else Problem(path, error.message)


# What reads the file of each flag that names one; --model_config_file has its own way.
READERS: Mapping[str, Callable[[str, Options], Iterator[Problem]]] = MappingProxyType(
    {
        "batching_parameters_file": _batching,
        "monitoring_config_file": _monitoring,
        "ssl_config_file": _tls,
        "rest_ssl_config_file": _tls,
        "auth_tokens_file": _tokens,
        "tensorflow_session_config_file": _session,
    }
)


def _at_field(path: str, message: str) -> str:
    """`path` with the place of the first field that `message` names."""
    with open(path, encoding="utf-8") as stream:
        places = positions(stream.read())
    for field_path, position in places.items():
        if field_path[-1].partition("[")[0] in message:
            return f"{path}:{position.line}:{position.column}"
    return path
