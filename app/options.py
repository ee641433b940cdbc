"""Every flag of the server, written once: the fields of `Options`.

The parser, `--help` and the table in docs/flags.md are made from these fields. TensorFlow Serving's flags
come first; Ferry's own stand here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from app.flag import Flag, Support
from app.flag import flag_field as _flag
from app.reference_options import ReferenceOptions

__all__ = ["ACCESS_LOGS", "LOG_FORMATS", "TRANSPORTS", "Options", "Support", "flags", "without_effect"]

TRANSPORTS = ("http2", "grpcio")
LOG_FORMATS = ("text", "json")
ACCESS_LOGS = ("none", "errors", "all")


@dataclass(frozen=True)
class Options(ReferenceOptions):
    """The value of every flag. Times are in the unit that the flag's name says."""

    drain_seconds: float = _flag(
        "float", 8.0, "Ferry: on SIGTERM, seconds that requests in flight have to finish."
    )
    enable_automatic_warmup: bool = _flag(
        "bool",
        True,
        "Ferry: run every signature of a version without a warm-up file once, on a made-up input. "
        "Needs --enable_model_warmup.",
    )
    model_cache_dir: str = _flag(
        "string",
        "",
        "Ferry: directory that keeps what was fetched from remote base paths. Empty: a temporary one.",
    )
    remote_poll_wait_seconds: int = _flag(
        "int32",
        30,
        "Ferry: least seconds between looks at a remote base path; --file_system_poll_wait_seconds if more.",
    )
    adaptive_batching: bool = _flag(
        "bool",
        False,
        "Ferry: batch requests without parameters: batches form while a model is busy, and learn their size. "
        "Not together with --enable_batching.",
    )
    batching_latency_target_in_ms: float = _flag(
        "float",
        0.0,
        "Ferry: with --adaptive_batching, the longest a batch should run, in milliseconds. 0: no bound.",
    )
    gpu_replicas: int = _flag(
        "int32",
        0,
        "Ferry: replicas of each model, each on a GPU of its own. 0: one for each GPU. 1: none, only the "
        "first GPU.",
    )
    allow_no_gpu: bool = _flag(
        "bool", False, "Ferry: let the image for GPUs serve on the CPU where it finds no GPU."
    )
    enable_model_optimization: bool = _flag(
        "bool",
        True,
        "Ferry: rewrite a model at load for speed, where its answers stay equal and it gets faster.",
    )
    model_optimization_load_factor: float = _flag(
        "float",
        2.0,
        "Ferry: with --enable_model_optimization, what a load may take, as a multiple of a plain one.",
    )
    enable_grpc_reflection: bool = _flag(
        "bool", True, "Ferry: serve gRPC server reflection, so that tools find services and messages."
    )
    metrics_path: str = _flag(
        "string",
        "/metrics",
        "Ferry: path of the metrics page on the REST port. Empty: no page. "
        "The path in --monitoring_config_file wins over it.",
    )
    grpc_transport: str = _flag(
        "string",
        "http2",
        "Ferry: what speaks gRPC: http2, or grpcio, which takes more CPU for a call.",
    )
    rest_ssl_config_file: str = _flag("string", "", "Ferry: as --ssl_config_file, for the REST port.")
    auth_tokens_file: str = _flag(
        "string", "", "Ferry: file with tokens and what they are good for; without it, nobody needs one."
    )
    admin_port: int = _flag(
        "int32",
        0,
        "Ferry: gRPC port for HandleReloadConfigRequest and the profiler, which then leave --port. 0: none.",
    )
    admin_host: str = _flag("string", "127.0.0.1", "Ferry: IP address that --admin_port listens on.")
    enable_reload_config: bool = _flag("bool", True, "Ferry: serve HandleReloadConfigRequest.")
    cors_allowed_origins: str = _flag(
        "string",
        "",
        "Ferry: with --rest_api_enable_cors_support, the only origins that are let in, comma-separated.",
    )
    loads_yield_to_requests: bool = _flag(
        "bool", True, "Ferry: versions load on what requests leave of the CPUs; false lets them compete."
    )
    log_format: str = _flag(
        "string", "text", "Ferry: lines of the log: text, as TensorFlow's, or json, an object each."
    )
    access_log: str = _flag(
        "string",
        "none",
        "Ferry: a line in the log for each request (all), each that failed (errors), or none.",
    )
    request_log_max_file_mb: int = _flag(
        "int32", 100, "Ferry: size of a request log file, in MB, at which the next one is begun."
    )
    request_log_max_files: int = _flag(
        "int32", 10, "Ferry: files of a request log that are kept, of each filename_prefix."
    )
    enable_tracing: bool = _flag(
        "bool", False, "Ferry: OpenTelemetry spans, sent by OTLP to where OTEL_EXPORTER_OTLP_ENDPOINT says."
    )
    max_connections: int = _flag("int32", 10000, "Ferry: connections at a time, of each port. 0: any number.")
    max_in_flight_requests: int = _flag(
        "int32", 0, "Ferry: requests to models at a time, REST and gRPC together. 0: any number."
    )
    max_requests_per_second_per_model: float = _flag(
        "float", 0.0, "Ferry: rate that each model may be asked at, with bursts of one second's. 0: any."
    )
    rest_api_max_body_mb: int = _flag("int32", 1024, "Ferry: MiB of a REST body as received. 0: any size.")
    rest_api_max_gzip_ratio: int = _flag(
        "int32", 0, "Ferry: bytes that one of a gzip body may become, up to 100 MiB in all. 0: any number."
    )
    rest_api_max_json_depth: int = _flag("int32", 10000, "Ferry: levels of brackets in JSON. 0: any number.")
    rest_api_max_header_kb: int = _flag(
        "int32", 64, "Ferry: KiB of a REST request's line and headers. 0: any size."
    )
    rest_api_receive_timeout_in_ms: int = _flag(
        "int32", 60000, "Ferry: time for a REST request to arrive, and 1 s more for each KiB. 0: any time."
    )
    rest_api_idle_timeout_in_ms: int = _flag(
        "int32", 75000, "Ferry: after which a REST connection without a request is closed. 0: never."
    )
    refuse_models_with_external_ops: bool = _flag(
        "bool", False, "Ferry: refuse SavedModels whose ops can reach files, the network or Python."
    )
    server_workers: int = _flag(
        "int32", 1, "Ferry: serving processes, each with all models, that share the ports; for more cores."
    )


def flags() -> Iterator[Flag]:
    """All flags in declaration order."""
    for field in dataclasses.fields(Options):
        yield Flag(name=field.name, default=field.default, **field.metadata)


def without_effect(options: Options) -> Iterator[Flag]:
    """The flags that were given another value than their default and do not act."""
    for flag in flags():
        if flag.support is not Support.ACTS and getattr(options, flag.name) != flag.default:
            yield flag
