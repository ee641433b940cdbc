from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from app.cpus import usable_cpus
from app.options import Options, Support, flags, without_effect

CPUS = usable_cpus()

# TensorFlow Serving's flags: name, type, default.
REFERENCE: tuple[tuple[str, str, Any], ...] = (
    ("port", "int32", 8500),
    ("grpc_socket_path", "string", ""),
    ("rest_api_port", "int32", 0),
    ("rest_api_num_threads", "int32", 4 * CPUS),
    ("rest_api_timeout_in_ms", "int32", 30000),
    ("rest_api_enable_cors_support", "bool", False),
    ("enable_batching", "bool", False),
    ("allow_version_labels_for_unavailable_models", "bool", False),
    ("batching_parameters_file", "string", ""),
    ("enable_per_model_batching_parameters", "bool", False),
    ("model_config_file", "string", ""),
    ("model_config_file_poll_wait_seconds", "int32", 0),
    ("model_name", "string", "default"),
    ("model_base_path", "string", ""),
    ("num_load_threads", "int32", 0),
    ("num_unload_threads", "int32", 0),
    ("max_num_load_retries", "int32", 5),
    ("load_retry_interval_micros", "int64", 60000000),
    ("file_system_poll_wait_seconds", "int32", 1),
    ("flush_filesystem_caches", "bool", True),
    ("tensorflow_session_parallelism", "int64", 0),
    ("tensorflow_session_config_file", "string", ""),
    ("tensorflow_intra_op_parallelism", "int64", 0),
    ("tensorflow_inter_op_parallelism", "int64", 0),
    ("use_alts_credentials", "bool", False),
    ("ssl_config_file", "string", ""),
    ("platform_config_file", "string", ""),
    ("per_process_gpu_memory_fraction", "float", 0.0),
    ("saved_model_tags", "string", "serve"),
    ("grpc_channel_arguments", "string", ""),
    ("grpc_max_threads", "int32", 4 * CPUS),
    ("enable_model_warmup", "bool", True),
    ("num_request_iterations_for_warmup", "int32", 0),
    ("version", "bool", False),
    ("monitoring_config_file", "string", ""),
    ("remove_unused_fields_from_bundle_metagraph", "bool", True),
    ("prefer_tflite_model", "bool", False),
    ("num_tflite_pools", "int32", CPUS),
    ("num_tflite_interpreters_per_pool", "int32", 1),
    ("enable_signature_method_name_check", "bool", False),
    ("xla_cpu_compilation_enabled", "bool", False),
    ("xla_gpu_compilation_enabled", "bool", False),
    ("enable_profiler", "bool", True),
    ("thread_pool_factory_config_file", "string", ""),
    ("mixed_precision", "string", ""),
    ("skip_initialize_tpu", "bool", False),
    ("enable_grpc_healthcheck_service", "bool", True),  # TensorFlow Serving's is False
    ("enable_serialization_as_tensor_content", "bool", False),
)
OWN = [
    *("drain_seconds", "enable_automatic_warmup", "model_cache_dir", "remote_poll_wait_seconds"),
    *("adaptive_batching", "batching_latency_target_in_ms", "gpu_replicas", "allow_no_gpu"),
    *("enable_model_optimization", "model_optimization_load_factor"),
    *("enable_grpc_reflection", "metrics_path", "grpc_transport"),
    *("rest_ssl_config_file", "auth_tokens_file", "admin_port", "admin_host", "enable_reload_config"),
    "cors_allowed_origins",
    "loads_yield_to_requests",
    *("log_format", "access_log", "request_log_max_file_mb", "request_log_max_files", "enable_tracing"),
    *("max_connections", "max_in_flight_requests", "max_requests_per_second_per_model"),
    *("rest_api_max_body_mb", "rest_api_max_gzip_ratio", "rest_api_max_json_depth"),
    *("rest_api_max_header_kb", "rest_api_receive_timeout_in_ms", "rest_api_idle_timeout_in_ms"),
    "refuse_models_with_external_ops",
    "server_workers",
]


def test_the_flags_are_tensorflow_servings_and_then_ferrys() -> None:
    found = [(flag.name, flag.type, flag.default) for flag in flags()]
    assert found[: len(REFERENCE)] == list(REFERENCE)
    assert [name for name, _, _ in found[len(REFERENCE) :]] == OWN


def test_a_default_has_the_type_of_its_flag() -> None:
    types = {"int32": int, "int64": int, "bool": bool, "string": str, "float": float}
    for flag in flags():
        assert type(flag.default) is types[flag.type], flag.name
        assert flag.help, flag.name


def test_a_flag_gives_a_reason_exactly_if_it_does_not_act() -> None:
    for flag in flags():
        assert bool(flag.reason) == (flag.support is not Support.ACTS), flag.name


def test_only_the_defaults_that_depend_on_the_machine_say_so() -> None:
    assert {flag.name: flag.cpu_factor for flag in flags() if flag.cpu_factor} == {
        "rest_api_num_threads": 4,
        "grpc_max_threads": 4,
        "num_tflite_pools": 1,
    }


def test_options_cannot_be_changed() -> None:
    options = Options()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.port = 1  # type: ignore[misc]


def test_without_effect_names_what_was_given_and_does_not_act() -> None:
    assert not list(without_effect(Options()))
    given = Options(skip_initialize_tpu=True, use_alts_credentials=True, port=1, enable_profiler=True)
    assert [flag.name for flag in without_effect(given)] == ["use_alts_credentials", "skip_initialize_tpu"]
