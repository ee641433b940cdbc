from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.command_line import check, parse, problems, usage
from app.errors import Code, ServingError
from app.flag import Flag
from app.options import Options, Support, flags

ARGUMENT = st.one_of(
    st.text(st.characters()),
    st.builds(
        "".join,
        st.tuples(
            st.sampled_from(["-", "--", "--no", ""]),
            st.sampled_from([flag.name for flag in flags()] + ["help", ""]),
            st.sampled_from(["", "=", "=true", "=1", " "]),
            st.text(st.characters(), max_size=5),
        ),
    ),
    st.sampled_from(["--", "--help", "--version"]),
)
INT_LIMITS = {"int32": 2**31, "int64": 2**63}


def values_of(flag: Flag) -> st.SearchStrategy[Any]:
    if flag.type == "bool":
        return st.booleans()
    if flag.type == "string":
        return st.text(st.characters())
    if flag.type == "float":
        return st.floats(allow_nan=False, allow_infinity=False)
    return st.integers(-INT_LIMITS[flag.type], INT_LIMITS[flag.type] - 1)


def text_of(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# Any input.


@given(st.lists(ARGUMENT))
def test_parse_never_fails_and_loses_nothing(arguments: list[str]) -> None:
    line = parse(arguments)
    assert set(line.unknown) <= set(arguments)
    assert isinstance(line.options, Options)


@given(st.fixed_dictionaries({}, optional={flag.name: values_of(flag) for flag in flags()}))
def test_every_value_of_every_flag_comes_back(values: dict[str, Any]) -> None:
    line = parse([f"--{name}={text_of(value)}" for name, value in values.items()])
    assert line.options == Options(**values)
    assert not line.bad_values
    assert not line.unknown


def test_thousands_of_digits_are_a_bad_value() -> None:
    assert parse(["--port=" + "1" * 5000]).bad_values == [("1" * 5000, "port")]


# The form of a flag.


def test_no_arguments_give_the_defaults() -> None:
    line = parse([])
    assert (line.options, line.bad_values, line.unknown) == (Options(), [], [])


def test_the_last_of_several_wins() -> None:
    assert parse(["--port=1", "--model_name=a", "--port=2"]).options == Options(port=2, model_name="a")


def test_a_string_is_everything_after_the_first_equals_sign() -> None:
    assert parse(["--model_name=a=b c"]).options.model_name == "a=b c"


def test_a_string_may_be_empty() -> None:
    assert parse(["--model_name="]).options.model_name == ""


def test_a_value_may_stand_apart() -> None:
    line = parse(["--port", "9000", "--model_name", "m", "--load_retry_interval_micros", "-5"])
    assert line.options == Options(port=9000, model_name="m", load_retry_interval_micros=-5)
    assert not line.unknown


@pytest.mark.parametrize("arguments", [["--model_name"], ["--model_name", "--version"]])
def test_a_string_without_a_value_is_unknown(arguments: list[str]) -> None:
    line = parse(arguments)
    assert line.unknown == ["--model_name"]
    assert line.options.model_name == "default"


def test_a_bool_alone_is_true_and_takes_no_value_from_the_next_word() -> None:
    line = parse(["--enable_batching", "false"])
    assert line.options.enable_batching is True
    assert line.unknown == ["false"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("TRUE", True),
        ("tRuE", True),
        ("1", True),
        ("false", False),
        ("False", False),
        ("0", False),
    ],
)
def test_words_for_bools(text: str, value: bool) -> None:
    assert parse([f"--flush_filesystem_caches={text}"]).options.flush_filesystem_caches is value


@pytest.mark.parametrize("text", ["yes", "no", "t", "2", "", " true", "01", "on"])
def test_other_words_are_bad_bools(text: str) -> None:
    line = parse([f"--enable_batching={text}"])
    assert line.bad_values == [(text, "enable_batching")]


@pytest.mark.parametrize(
    ("text", "value"), [("7", 7), ("+7", 7), ("-7", -7), ("  7", 7), ("\t7", 7), ("0010", 10), ("-0", 0)]
)
def test_integers(text: str, value: int) -> None:
    assert parse([f"--rest_api_timeout_in_ms={text}"]).options.rest_api_timeout_in_ms == value


@pytest.mark.parametrize(
    "text", ["0x10", "1.5", "12x", "", " ", "7 ", "1e3", "1_000", "--7", "+-7", "\u0661", "7\n"]
)
@pytest.mark.parametrize("name", ["port", "load_retry_interval_micros"])
def test_what_is_no_integer_is_a_bad_value(name: str, text: str) -> None:
    line = parse([f"--{name}={text}"])
    assert line.bad_values == [(text, name)]
    assert line.options == Options()


@pytest.mark.parametrize(("name", "bits"), [("port", 31), ("load_retry_interval_micros", 63)])
def test_integers_are_limited_to_their_width(name: str, bits: int) -> None:
    lowest, highest = -(2**bits), 2**bits - 1
    assert getattr(parse([f"--{name}={lowest}"]).options, name) == lowest
    assert getattr(parse([f"--{name}={highest}"]).options, name) == highest
    for text in (str(lowest - 1), str(highest + 1)):
        assert parse([f"--{name}={text}"]).bad_values == [(text, name)]


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.5", 0.5), ("1", 1.0), (".5", 0.5), ("5.", 5.0), ("-1e-3", -0.001), (" +2E2", 200.0)],
)
def test_floats(text: str, value: float) -> None:
    found = parse([f"--per_process_gpu_memory_fraction={text}"]).options.per_process_gpu_memory_fraction
    assert math.isclose(found, value)


@pytest.mark.parametrize("text", ["", ".", "half", "1.5x", "1 ", "1e", "1,5", "0x1p3"])
def test_what_is_no_float_is_a_bad_value(text: str) -> None:
    line = parse([f"--per_process_gpu_memory_fraction={text}"])
    assert line.bad_values == [(text, "per_process_gpu_memory_fraction")]


def test_parsing_goes_on_after_a_bad_value() -> None:
    line = parse(["--port=x", "--model_name=m", "--enable_batching=maybe", "--nonsense"])
    assert line.bad_values == [("x", "port"), ("maybe", "enable_batching")]
    assert line.options.model_name == "m"
    assert line.unknown == ["--nonsense"]


@pytest.mark.parametrize(
    "argument",
    ["-port=1", "port=1", "--noenable_batching", "--PORT=1", "---port=1", "--por=1", "--=1", "", "x", "-"],
)
def test_what_is_no_flag_is_unknown(argument: str) -> None:
    line = parse([argument, "--model_name=m"])
    assert line.unknown == [argument]
    assert line.options == Options(model_name="m")


def test_two_dashes_end_the_flags() -> None:
    line = parse(["--model_name=m", "--", "--port=1", "x"])
    assert line.unknown == ["--", "--port=1", "x"]
    assert line.options == Options(model_name="m")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--help"], True),
        (["--port=1", "--help", "x"], True),
        (["x", "--help"], False),
        (["--", "--help"], False),
        (["--help=true"], False),
        (["-h"], False),
        ([], False),
    ],
)
def test_help_counts_as_first_unknown_argument_only(arguments: list[str], wanted: bool) -> None:
    assert parse(arguments).wants_help is wanted


# The usage text.


def test_usage_lists_every_flag_in_order_with_its_help() -> None:
    lines = usage("/usr/bin/server").splitlines()
    assert lines[:2] == ["usage: /usr/bin/server", "Flags:"]
    for line, flag in zip(lines[2:], flags(), strict=True):
        empty, assignment, kind, text = line.split("\t")
        assert empty == ""
        assert assignment.startswith(f"--{flag.name}=")
        assert len(assignment) >= 33
        assert assignment == assignment.rstrip().ljust(33)
        assert (kind, text) == (flag.type, flag.help)
    assert usage("x").endswith("\n")


@pytest.mark.parametrize(
    "start",
    [
        "\t--port=8500                      \tint32\t",
        '\t--model_name="default"           \tstring\t',
        '\t--model_base_path=""             \tstring\t',
        "\t--enable_batching=false          \tbool\t",
        "\t--enable_profiler=true           \tbool\t",
        "\t--per_process_gpu_memory_fraction=0.000000\tfloat\t",
        "\t--load_retry_interval_micros=60000000\tint64\t",
    ],
)
def test_usage_prints_defaults_as_tensorflow_does(start: str) -> None:
    assert any(line.startswith(start) for line in usage("x").splitlines())


# Combinations.


def refusal(**values: Any) -> ServingError:
    with pytest.raises(ServingError) as raised:
        check(Options(**{"model_base_path": "/models/m", **values}))
    return raised.value


def test_a_base_path_is_all_it_needs() -> None:
    check(Options(model_base_path="/models/m"))


NO_PORT = "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
ALTS = "Either use_alts_credentials must be false or ssl_config_file must be empty."
NO_MODEL = "Both server_options.model_base_path and server_options.model_config_file are empty!"
NO_BATCHING = (
    "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
)
PARALLELISM = (
    "Either configure server_options.tensorflow_session_parallelism or "
    "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
    "separately. You cannot configure all."
)
BROKEN: tuple[tuple[dict[str, Any], str], ...] = (
    ({"port": 0}, NO_PORT),
    ({"use_alts_credentials": True, "ssl_config_file": "x"}, ALTS),
    ({"model_base_path": ""}, NO_MODEL),
    ({"batching_parameters_file": "x"}, NO_BATCHING),
    (
        {
            "tensorflow_session_parallelism": 1,
            "tensorflow_intra_op_parallelism": 1,
            "tensorflow_inter_op_parallelism": 1,
        },
        PARALLELISM,
    ),
)


@pytest.mark.parametrize(("values", "message"), BROKEN)
def test_tensorflow_servings_checks(values: dict[str, Any], message: str) -> None:
    assert str(refusal(**values)) == f"INVALID_ARGUMENT: {message}"


@pytest.mark.parametrize("first", range(len(BROKEN)))
def test_the_first_check_that_fails_is_told(first: int) -> None:
    values = {name: value for broken, _ in BROKEN[first:] for name, value in broken.items()}
    assert refusal(**values).message == BROKEN[first][1]


@pytest.mark.parametrize(
    "values",
    [
        {"port": 0, "grpc_socket_path": "x"},
        {"batching_parameters_file": "x", "enable_batching": True},
        {"tensorflow_session_parallelism": 1, "tensorflow_intra_op_parallelism": 1},
        {"tensorflow_intra_op_parallelism": 1, "tensorflow_inter_op_parallelism": 1},
        {"port": 65535, "rest_api_port": 65535},
        {"grpc_channel_arguments": "a=1,b=,c=x=y"},
        {"rest_api_num_threads": 1, "grpc_max_threads": 1},
        {"drain_seconds": 0.0},
        {"model_base_path": "s3://bucket/m", "remote_poll_wait_seconds": 1},
        {"drain_seconds": 86400.0},
    ],
)
def test_what_may_be_combined(values: dict[str, Any]) -> None:
    check(Options(**{"model_base_path": "/models/m", **values}))


@pytest.mark.parametrize("flag", [flag for flag in flags() if flag.support is Support.REFUSED], ids=str)
def test_what_would_be_unsafe_to_leave_out_stops_the_start(flag: Flag) -> None:
    error = refusal(**{flag.name: True if flag.type == "bool" else "x"})
    assert error.code is Code.UNIMPLEMENTED
    assert error.message == f"--{flag.name} is not supported: {flag.reason}."


def test_what_stops_the_start() -> None:
    assert {flag.name for flag in flags() if flag.support is Support.REFUSED} >= {
        "use_alts_credentials",
        "platform_config_file",
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"admin_port": 70000}, "--admin_port must be between 0 and 65535; was 70000."),
        ({"port": 8500, "admin_port": 8500}, "--admin_port must differ from the other ports; was 8500."),
        (
            {"rest_api_port": 8501, "admin_port": 8501},
            "--admin_port must differ from the other ports; was 8501.",
        ),
        ({"admin_host": "localhost"}, "--admin_host must be an IP address; was `localhost`."),
        (
            {"cors_allowed_origins": "https://a"},
            "--cors_allowed_origins needs --rest_api_enable_cors_support.",
        ),
        *(
            (
                {"rest_api_enable_cors_support": True, "cors_allowed_origins": f"https://a.example,{origin}"},
                "--cors_allowed_origins takes origins such as `https://example.com:8443`, without a path; "
                f"was `{origin}`.",
            )
            for origin in ("*", "a.example", "https://a/", "null", "https://*.example")
        ),
    ],
)
def test_flags_of_security_that_cannot_work(values: dict[str, Any], message: str) -> None:
    assert str(refusal(**values)) == f"INVALID_ARGUMENT: {message}"


@pytest.mark.parametrize(
    "values",
    [
        {"ssl_config_file": "x", "rest_ssl_config_file": "x", "auth_tokens_file": "x"},
        {"admin_port": 8502, "admin_host": "::1"},
        {"rest_api_enable_cors_support": True, "cors_allowed_origins": "https://a:1, http://b,"},
    ],
)
def test_flags_of_security_that_work(values: dict[str, Any]) -> None:
    check(Options(**{"model_base_path": "/models/m", **values}))


@pytest.mark.parametrize("flag", [flag for flag in flags() if flag.support is Support.IGNORED], ids=str)
def test_what_has_no_effect_does_not_stop_the_start(flag: Flag) -> None:
    other: Any = {"bool": not flag.default, "string": "x"}.get(flag.type, 3)
    values: dict[str, Any] = {"model_base_path": "/m", "enable_batching": True, flag.name: other}
    check(Options(**values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rest_api_num_threads": 0}, "--rest_api_num_threads must be at least 1; was 0."),
        ({"grpc_max_threads": -1}, "--grpc_max_threads must be at least 1; was -1."),
        ({"gpu_replicas": -1}, "--gpu_replicas must be at least 0; was -1."),
        ({"port": 65536}, "--port must be between 0 and 65535; was 65536."),
        (
            {"tensorflow_inter_op_parallelism": 2**31},
            "--tensorflow_inter_op_parallelism must be at most 2147483647; was 2147483648.",
        ),
        (
            {"adaptive_batching": True, "enable_batching": True},
            "--adaptive_batching and --enable_batching exclude each other; give one.",
        ),
        (
            {"batching_latency_target_in_ms": -0.5},
            "--batching_latency_target_in_ms must not be negative; was -0.5.",
        ),
        ({"rest_api_port": -1}, "--rest_api_port must be between 0 and 65535; was -1."),
        (
            {"grpc_channel_arguments": "a=1,b"},
            "--grpc_channel_arguments: `b` is not of the form key=value.",
        ),
        ({"server_workers": 0}, "--server_workers must be at least 1; was 0."),
        ({"server_workers": 257}, "--server_workers must be at most 256; was 257."),
        (
            {"server_workers": 2, "grpc_socket_path": "/s"},
            "--server_workers=2 needs ports that processes can share: leave --grpc_socket_path out, or use "
            "one worker.",
        ),
        (
            {"server_workers": 2, "grpc_channel_arguments": "grpc.so_reuseport=0"},
            "--server_workers=2 needs ports that processes can share: leave grpc.so_reuseport=0 out of "
            "--grpc_channel_arguments, or use one worker.",
        ),
        (
            {"model_base_path": "models/m", "model_name": "n"},
            "Expected model n to have an absolute path or URI; got base_path()=models/m",
        ),
    ],
)
def test_values_out_of_range(values: dict[str, Any], message: str) -> None:
    assert str(refusal(**values)) == f"INVALID_ARGUMENT: {message}"


@pytest.mark.parametrize("seconds", [-1.0, math.inf, 1e300])
def test_a_drain_takes_a_time_that_can_be_waited_for(seconds: float) -> None:
    message = f"--drain_seconds must be between 0 and 86400; was {seconds:g}."
    assert str(refusal(drain_seconds=seconds)) == f"INVALID_ARGUMENT: {message}"


def test_a_transport_that_does_not_exist_is_refused() -> None:
    assert "--log_format must be one of text, json; was xml." in str(refusal(log_format="xml"))
    assert "--access_log must be one of none, errors, all; was some." in str(refusal(access_log="some"))
    message = "--grpc_transport must be one of http2, grpcio; was quic."
    assert str(refusal(grpc_transport="quic")) == f"INVALID_ARGUMENT: {message}"


def test_a_remote_base_path_is_refused_by_name() -> None:
    error = refusal(model_base_path="ftp://host/m")
    assert error.code is Code.UNIMPLEMENTED
    assert error.message.startswith("Base path ftp://host/m of model default: ")


@pytest.mark.parametrize("path", ["", "/metrics", "/v1/metrics"])
def test_metrics_paths(path: str) -> None:
    check(Options(model_base_path="/m", metrics_path=path))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("metrics", "--metrics_path must start with `/`, or be empty for no page; was `metrics`."),
        ("/readyz", "--metrics_path must not be the path of a probe; was `/readyz`."),
    ],
)
def test_metrics_paths_that_cannot_be(path: str, message: str) -> None:
    assert str(refusal(metrics_path=path)) == f"INVALID_ARGUMENT: {message}"


def test_all_that_is_wrong_can_be_asked_for() -> None:
    options = Options(port=70000, rest_api_port=-1, drain_seconds=-1.0, model_base_path="relative")
    texts = [problem.message for problem in problems(options)]
    assert [text.split()[0] for text in texts] == ["--port", "--rest_api_port", "--drain_seconds", "Expected"]
    with pytest.raises(ServingError, match="--port"):
        check(options)


@pytest.mark.parametrize("name", ["request_log_max_file_mb", "request_log_max_files"])
def test_request_logs_have_room_for_something(name: str) -> None:
    assert f"--{name} must be at least 1; was 0." in str(refusal(**{name: 0}))


def test_tracing_without_its_packages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check(Options(model_base_path="/m", enable_tracing=True))
    monkeypatch.setattr("app.command_line._TRACING_PACKAGES", ("no.such.package",))
    assert "install ferry-model-server[tracing]" in str(refusal(enable_tracing=True))
