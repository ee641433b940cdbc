"""argv to `Options`, by TensorFlow Serving's rules for flags.

`--name=value`; a bool may stand alone; the last repeat wins; what is not known is printed with
the usage text and the server starts all the same. Ferry adds `--name value`.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.config.base_path import check_base_path
from app.errors import Code, ServingError, invalid_argument
from app.flag import Flag
from app.options import ACCESS_LOGS, LOG_FORMATS, TRANSPORTS, Options, Support, flags, without_effect

_INT = re.compile(r"\s*[+-]?[0-9]+\Z")
_FLOAT = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\Z")
_ORIGIN = re.compile(r"https?://[^\s/,*]+")
_INT_BITS = {"int32": 31, "int64": 63}
_LONGEST_DRAIN_SECONDS = 86400
_MOST_THREADS = (1 << 31) - 1  # what a ConfigProto has room for
_MOST_WORKERS = 256
_TRACING_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_BOOLS = {"true": True, "false": False, "1": True, "0": False}


@dataclass
class CommandLine:
    """What a command line says.

    Attributes:
        options: the flags' values.
        bad_values: (value, flag name) of each value that its flag cannot take.
        unknown: arguments that are no flags, in order.
    """

    options: Options
    bad_values: list[tuple[str, str]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def wants_help(self) -> bool:
        """Whether `--help` is the first argument that is not a flag."""
        return self.unknown[:1] == ["--help"]


def parse(arguments: Sequence[str]) -> CommandLine:
    """Read `arguments`, which do not include the program's name. Never fails: see `CommandLine`."""
    known = {flag.name: flag for flag in flags()}
    values: dict[str, Any] = {}
    result = CommandLine(Options())
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            result.unknown += [argument, *rest]
            break
        name, equals, text = argument.removeprefix("--").partition("=")
        flag = known.get(name) if argument.startswith("--") else None
        if flag is None:
            result.unknown.append(argument)
            continue
        if not equals and flag.type == "bool":
            text = "true"
        elif not equals and rest and not rest[0].startswith("--"):
            text = rest.pop(0)
        elif not equals:
            result.unknown.append(argument)
            continue
        try:
            values[name] = _value(flag, text)
        except ValueError:
            result.bad_values.append((text, name))
    result.options = Options(**values)
    return result


def _value(flag: Flag, text: str) -> Any:
    """`text` as a value of `flag`'s type; ValueError if it is none."""
    if flag.type == "string":
        return text
    if flag.type == "bool":
        if text.lower() not in _BOOLS:
            raise ValueError(text)
        return _BOOLS[text.lower()]
    if flag.type == "float":
        if not _FLOAT.match(text):
            raise ValueError(text)
        return float(text)
    if not _INT.match(text):
        raise ValueError(text)
    value = int(text)
    limit = 1 << _INT_BITS[flag.type]
    if not -limit <= value < limit:
        raise ValueError(text)
    return value


def usage(program: str) -> str:
    """The usage text, laid out as TensorFlow's: name and default, type, help."""
    lines = [f"usage: {program}", "Flags:"]
    for flag in flags():
        assignment = f"--{flag.name}={default_text(flag)}"
        lines.append(f"\t{assignment:<33}\t{flag.type}\t{flag.help}")
    return "\n".join(lines) + "\n"


def default_text(flag: Flag) -> str:
    """A flag's default as the usage text prints it."""
    if flag.type == "bool":
        return "true" if flag.default else "false"
    if flag.type == "string":
        return f'"{flag.default}"'
    if flag.type == "float":
        return f"{flag.default:f}"
    return str(flag.default)


def check(options: Options) -> None:
    """Refuse combinations that cannot work, in TensorFlow Serving's order and words.

    Raises:
        ServingError: INVALID_ARGUMENT, or UNIMPLEMENTED for what this version does not do and
            must not silently leave out.
    """
    for problem in problems(options):
        raise problem


def problems(options: Options) -> Iterator[ServingError]:
    """All that `check` would refuse, in its order."""
    if options.port == 0 and not options.grpc_socket_path:
        yield invalid_argument(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
        )
    if options.use_alts_credentials and options.ssl_config_file:
        yield invalid_argument("Either use_alts_credentials must be false or ssl_config_file must be empty.")
    if not options.model_base_path and not options.model_config_file:
        yield invalid_argument(
            "Both server_options.model_base_path and server_options.model_config_file are empty!"
        )
    if options.batching_parameters_file and not options.enable_batching:
        yield invalid_argument(
            "server_options.batching_parameters_file is set without setting "
            "server_options.enable_batching to true."
        )
    parallelism = (
        options.tensorflow_session_parallelism,
        options.tensorflow_intra_op_parallelism,
        options.tensorflow_inter_op_parallelism,
    )
    if all(threads > 0 for threads in parallelism):
        yield invalid_argument(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, "
            "server_options.tensorflow_inter_op_parallelism) separately. You cannot configure all."
        )
    for flag in without_effect(options):
        if flag.support is Support.REFUSED:
            yield ServingError(Code.UNIMPLEMENTED, f"--{flag.name} is not supported: {flag.reason}.")
    yield from _check_ranges(options)
    yield from _check_adaptive_batching(options)
    yield from _check_security(options)
    yield from _check_workers(options)
    if options.model_base_path and not options.model_config_file:
        try:
            check_base_path(options.model_name, options.model_base_path)
        except ServingError as error:
            yield error


def _check_adaptive_batching(options: Options) -> Iterator[ServingError]:
    if options.adaptive_batching and options.enable_batching:
        yield invalid_argument("--adaptive_batching and --enable_batching exclude each other; give one.")
    if (target := options.batching_latency_target_in_ms) < 0:
        yield invalid_argument(f"--batching_latency_target_in_ms must not be negative; was {target:g}.")


def _check_workers(options: Options) -> Iterator[ServingError]:
    if options.server_workers <= 1:
        return
    if options.server_workers > _MOST_WORKERS:
        yield invalid_argument(
            f"--server_workers must be at most {_MOST_WORKERS}; was {options.server_workers}."
        )
    asked = f"--server_workers={options.server_workers} needs ports that processes can share:"
    if options.grpc_socket_path:
        yield invalid_argument(f"{asked} leave --grpc_socket_path out, or use one worker.")
    arguments = dict(item.partition("=")[::2] for item in options.grpc_channel_arguments.split(","))
    if arguments.get("grpc.so_reuseport", "1") == "0":
        yield invalid_argument(
            f"{asked} leave grpc.so_reuseport=0 out of --grpc_channel_arguments, or use one worker."
        )


def _check_security(options: Options) -> Iterator[ServingError]:
    if options.admin_port and options.admin_port in (options.port, options.rest_api_port):
        yield invalid_argument(f"--admin_port must differ from the other ports; was {options.admin_port}.")
    try:
        ipaddress.ip_address(options.admin_host)
    except ValueError:
        yield invalid_argument(f"--admin_host must be an IP address; was `{options.admin_host}`.")
    if options.cors_allowed_origins and not options.rest_api_enable_cors_support:
        yield invalid_argument("--cors_allowed_origins needs --rest_api_enable_cors_support.")
    for origin in map(str.strip, options.cors_allowed_origins.split(",")):
        if origin and not _ORIGIN.fullmatch(origin):
            yield invalid_argument(
                "--cors_allowed_origins takes origins such as `https://example.com:8443`, without a path; "
                f"was `{origin}`."
            )


def _check_metrics_path(path: str) -> Iterator[ServingError]:
    if path and not path.startswith("/"):
        yield invalid_argument(f"--metrics_path must start with `/`, or be empty for no page; was `{path}`.")
    if path in ("/livez", "/readyz"):
        yield invalid_argument(f"--metrics_path must not be the path of a probe; was `{path}`.")


def _check_ranges(options: Options) -> Iterator[ServingError]:
    least = {
        "rest_api_num_threads": 1,
        "grpc_max_threads": 1,
        "remote_poll_wait_seconds": 1,
        "gpu_replicas": 0,
        "request_log_max_file_mb": 1,
        "request_log_max_files": 1,
        "max_connections": 0,
        "max_in_flight_requests": 0,
        "max_requests_per_second_per_model": 0,
        "rest_api_max_body_mb": 0,
        "rest_api_max_gzip_ratio": 0,
        "rest_api_max_json_depth": 0,
        "rest_api_max_header_kb": 0,
        "rest_api_receive_timeout_in_ms": 0,
        "rest_api_idle_timeout_in_ms": 0,
        "server_workers": 1,
    }
    for name, lowest in least.items():
        if getattr(options, name) < lowest:
            yield invalid_argument(f"--{name} must be at least {lowest}; was {getattr(options, name)}.")
    for name in ("port", "rest_api_port", "admin_port"):
        if not 0 <= getattr(options, name) <= 65535:
            yield invalid_argument(f"--{name} must be between 0 and 65535; was {getattr(options, name)}.")
    for name in ("session", "intra_op", "inter_op"):
        threads = getattr(options, f"tensorflow_{name}_parallelism")
        if threads > _MOST_THREADS:
            yield invalid_argument(
                f"--tensorflow_{name}_parallelism must be at most {_MOST_THREADS}; was {threads}."
            )
    if not 0 <= options.drain_seconds <= _LONGEST_DRAIN_SECONDS:
        yield invalid_argument(
            f"--drain_seconds must be between 0 and {_LONGEST_DRAIN_SECONDS}; was {options.drain_seconds:g}."
        )
    yield from _check_metrics_path(options.metrics_path)
    yield from _check_choices(options)
    yield from _check_grpc(options)
    if options.enable_tracing and not all(map(_is_installed, _TRACING_PACKAGES)):
        yield ServingError(
            Code.FAILED_PRECONDITION,
            "--enable_tracing needs OpenTelemetry, which is not installed; "
            "install ferry-model-server[tracing].",
        )


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False


def _check_choices(options: Options) -> Iterator[ServingError]:
    choices = {"grpc_transport": TRANSPORTS, "log_format": LOG_FORMATS, "access_log": ACCESS_LOGS}
    for name, words in choices.items():
        if getattr(options, name) not in words:
            yield invalid_argument(
                f"--{name} must be one of {', '.join(words)}; was {getattr(options, name)}."
            )


def _check_grpc(options: Options) -> Iterator[ServingError]:
    for item in filter(None, options.grpc_channel_arguments.split(",")):
        if "=" not in item:
            yield invalid_argument(f"--grpc_channel_arguments: `{item}` is not of the form key=value.")
