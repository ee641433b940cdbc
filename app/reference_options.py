"""TensorFlow Serving's flags: names, types, defaults and order are its own."""

from __future__ import annotations

from dataclasses import dataclass

from app.flag import flag_field as _flag

_TUNING = "a tuning switch of the reference's implementation; it has no counterpart here"


@dataclass(frozen=True)
class ReferenceOptions:
    """The value of every flag that TensorFlow Serving has. Times are in the unit that the name says."""

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
    xla_cpu_compilation_enabled: bool = _flag(
        "bool", False, "Use XLA for models that it makes faster, as measured at load."
    )
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
        "bfloat16: compute convolutions and matrix products in it. Not without --enable_model_optimization.",
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
