"""Every flag of the server, written once: the fields of `Options`.

The parser, `--help` and the table in docs/flags.md are made from these fields. Names, types,
defaults and order are TensorFlow Serving's; Ferry's own flags stand at the end.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.cpus import usable_cpus


class Support(enum.Enum):
    """What becomes of a flag that is given."""

    ACTS = "acts"
    IGNORED = "accepted, no effect"
    REFUSED = "refused"


@dataclass(frozen=True)
class Flag:
    """One flag, as the parser and the documentation see it.

    Attributes:
        name: without the dashes.
        type: `int32`, `int64`, `bool`, `string` or `float`.
        default: the value when the flag is absent.
        help: one line.
        support: whether a value other than the default acts, is ignored with a warning, or
            stops the start.
        reason: why it does not act; empty when it does.
        cpu_factor: the default is this many times the number of usable CPUs; 0 if it is fixed.
    """

    name: str
    type: str
    default: Any
    help: str
    support: Support
    reason: str
    cpu_factor: int


def _flag(
    kind: str, default: Any, text: str, *, ignored: str = "", refused: str = "", cpu_factor: int = 0
) -> Any:
    if cpu_factor:
        default = cpu_factor * usable_cpus()
    support = Support.IGNORED if ignored else Support.REFUSED if refused else Support.ACTS
    metadata: dict[str, Any] = {"type": kind, "help": text, "support": support, "reason": ignored or refused}
    metadata["cpu_factor"] = cpu_factor
    return dataclasses.field(default=default, metadata=metadata)


_TUNING = "a tuning switch of the reference's implementation; it has no counterpart here"
TRANSPORTS = ("grpcio", "http2")
LOG_FORMATS = ("text", "json")
ACCESS_LOGS = ("none", "errors", "all")
_XLA = "TensorFlow switches it for the whole process; it was not tried here"


@dataclass(frozen=True)
class Options:
    """The value of every flag. Times are in the unit that the flag's name says."""

    port: int = _flag("int32", 8500, "TCP port to listen on for gRPC. 0: no TCP port.")
    grpc_socket_path: str = _flag("string", "", "Also listen for gRPC on this UNIX socket.")
    rest_api_port: int = _flag("int32", 0, "Port to listen on for HTTP/REST. 0: no HTTP server.")
    rest_api_num_threads: int = _flag(
        "int32", 0, "Threads that decode, run and encode REST requests; at least 1.", cpu_factor=4
    )
    rest_api_timeout_in_ms: int = _flag(
        "int32", 30000, "Timeout of a REST request in milliseconds. 0 or less: none."
    )
    rest_api_enable_cors_support: bool = _flag("bool", False, "Add CORS headers to REST responses.")
    enable_batching: bool = _flag("bool", False, "Run requests that come together as one batch.")
    allow_version_labels_for_unavailable_models: bool = _flag(
        "bool", False, "Let a new version label point to a version that is not available yet."
    )
    batching_parameters_file: str = _flag(
        "string", "", "File with a text BatchingParameters. Needs --enable_batching."
    )
    enable_per_model_batching_parameters: bool = _flag(
        "bool",
        False,
        "Batch the versions with a batching_params.pbtxt in their directory, and only these, by that file. "
        "Needs --enable_batching.",
    )
    model_config_file: str = _flag(
        "string",
        "",
        "File with a text ModelServerConfig: several models, policies, labels. Replaces --model_name.",
    )
    model_config_file_poll_wait_seconds: int = _flag(
        "int32", 0, "Seconds between readings of --model_config_file. 0 or less: read once."
    )
    model_name: str = _flag("string", "default", "Name of the single model.")
    model_base_path: str = _flag(
        "string", "", "Directory or URI of the single model; its versions are numbered directories in it."
    )
    num_load_threads: int = _flag(
        "int32", 0, "Versions that load at a time once the server has started; at least 1."
    )
    num_unload_threads: int = _flag(
        "int32",
        0,
        "Versions that unload at a time; at least 1.",
    )
    max_num_load_retries: int = _flag(
        "int32", 5, "How often a load that failed is tried again before the version is given up."
    )
    load_retry_interval_micros: int = _flag(
        "int64", 60_000_000, "Pause between attempts to load, in microseconds. Negative: none."
    )
    file_system_poll_wait_seconds: int = _flag(
        "int32",
        1,
        "Seconds between looks for new versions, beside file system events. 0: look once. Negative: never.",
    )
    flush_filesystem_caches: bool = _flag(
        "bool",
        True,
        "Drop the page cache after the initial loads.",
        ignored="the kernel does that when needed",
    )
    tensorflow_session_parallelism: int = _flag(
        "int64", 0, "Threads within one op and ops at a time, unless one of their own flags is given."
    )
    tensorflow_session_config_file: str = _flag(
        "string",
        "",
        "File with a text tensorflow.ConfigProto; the flags for threads and GPU memory win over it.",
    )
    tensorflow_intra_op_parallelism: int = _flag("int64", 0, "Threads within one op. 0: the usable CPUs.")
    tensorflow_inter_op_parallelism: int = _flag(
        "int64", 0, "Ops at a time. 0 or 1: one after the other, in the request's own thread."
    )
    use_alts_credentials: bool = _flag(
        "bool",
        False,
        "Use ALTS credentials for gRPC.",
        refused="ALTS exists on Google's network only; serving in the clear instead would be unsafe",
    )
    ssl_config_file: str = _flag(
        "string", "", "File with a text SSLConfig: TLS for gRPC. Read again when it changes."
    )
    platform_config_file: str = _flag(
        "string",
        "",
        "File with a text PlatformConfigMap.",
        refused="the platform is always `tensorflow` here",
    )
    per_process_gpu_memory_fraction: float = _flag(
        "float", 0.0, "Part of each GPU's memory to take at the start, up to 1. 0: memory is taken as needed."
    )
    saved_model_tags: str = _flag("string", "serve", "Tags of the meta graph to load, comma-separated.")
    grpc_channel_arguments: str = _flag("string", "", "gRPC server arguments: key=value,key=value.")
    grpc_max_threads: int = _flag("int32", 0, "Threads that handle gRPC requests.", cpu_factor=4)
    enable_model_warmup: bool = _flag(
        "bool", True, "Warm a version up before it becomes available: replay its warm-up file."
    )
    num_request_iterations_for_warmup: int = _flag(
        "int32", 0, "How often each request of a warm-up file is replayed. 0 or less: once."
    )
    version: bool = _flag("bool", False, "Print the version and exit.")
    monitoring_config_file: str = _flag(
        "string", "", "File with a text MonitoringConfig: metrics for Prometheus, on the REST port."
    )
    remove_unused_fields_from_bundle_metagraph: bool = _flag(
        "bool", True, "Drop unused fields of the meta graph.", ignored=_TUNING
    )
    prefer_tflite_model: bool = _flag(
        "bool",
        False,
        "Serve model.tflite of a version directory when it is there, else the SavedModel.",
    )
    num_tflite_pools: int = _flag(
        "int32",
        0,
        "TensorFlow Lite interpreters of a model; each runs one request at a time, in one thread.",
        cpu_factor=1,
    )
    num_tflite_interpreters_per_pool: int = _flag(
        "int32", 1, "Factor: so many times --num_tflite_pools interpreters."
    )
    enable_signature_method_name_check: bool = _flag(
        "bool", False, "Check the method name of a signature against the method called."
    )
    xla_cpu_compilation_enabled: bool = _flag("bool", False, "Enable XLA on the CPU.", ignored=_XLA)
    xla_gpu_compilation_enabled: bool = _flag("bool", False, "Enable XLA on the GPU.", ignored=_TUNING)
    enable_profiler: bool = _flag("bool", True, "Serve tensorflow.ProfilerService on the gRPC port.")
    thread_pool_factory_config_file: str = _flag(
        "string",
        "",
        "File with a text ThreadPoolFactoryConfig.",
        refused="the reference has no factory either: it refuses every such file",
    )
    mixed_precision: str = _flag(
        "string",
        "",
        "bfloat16: compute convolutions and matrix products in it. Needs --enable_model_optimization.",
    )
    skip_initialize_tpu: bool = _flag(
        "bool", False, "Do not initialise TPUs.", ignored="there is no TPU build"
    )
    enable_grpc_healthcheck_service: bool = _flag(
        "bool", True, "Serve grpc.health.v1.Health. Ferry's default; TensorFlow Serving's is false."
    )
    enable_serialization_as_tensor_content: bool = _flag(
        "bool", False, "Put outputs of gRPC Predict into tensor_content."
    )
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
        False,
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
        "string", "grpcio", "Ferry: what speaks gRPC: grpcio, or http2, which takes less CPU for a call."
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


def flags() -> Iterator[Flag]:
    """All flags in declaration order."""
    for field in dataclasses.fields(Options):
        yield Flag(name=field.name, default=field.default, **field.metadata)


def without_effect(options: Options) -> Iterator[Flag]:
    """The flags that were given another value than their default and do not act."""
    for flag in flags():
        if flag.support is not Support.ACTS and getattr(options, flag.name) != flag.default:
            yield flag
