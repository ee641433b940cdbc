from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app.tools.check import Report, check
from tests.tools.conftest import ferry, run_ferry


def lines(report: Report) -> list[str]:
    return [str(problem) for problem in [*report.wrong_flags, *report.problems]]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_sound_command_line_has_no_problem(zoo: Path) -> None:
    printed = ferry("check", "--port=0", "--grpc_socket_path=/tmp/s", f"--model_base_path={zoo / 'counting'}")
    assert printed.splitlines()[-1] == "models: 1, versions: 1, problems: 0"


def test_every_wrong_flag_is_told(zoo: Path) -> None:
    done = run_ferry(
        "check",
        "--prot=1",
        "--port=x",
        "--rest_api_port=70000",
        "--drain_seconds=-1",
        "--model_name",
        f"--model_base_path={zoo / 'half'}",
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "--port: `x` is no value of type int32.",
        "--prot=1: this is no flag, and a server would pass over it. Did you mean --port?",
        "--model_name: it lacks a value.",
        "command line: --rest_api_port must be between 0 and 65535; was 70000.",
        "command line: --drain_seconds must be between 0 and 86400; was -1.",
    ]


def test_a_flag_without_effect_is_a_note(zoo: Path) -> None:
    report = check(["--skip_initialize_tpu", f"--model_base_path={zoo / 'half'}"])
    assert lines(report) == []
    assert report.notes == ["--skip_initialize_tpu has no effect: there is no TPU build."]


def test_every_problem_of_a_config_file_has_its_place(zoo: Path, tmp_path: Path) -> None:
    config = write(
        tmp_path / "models.config",
        f"""model_config_list {{
  config {{ name: "a" base_path: "models/a" model_platform: "torch" }}
  config {{ name: "a" base_path: "{zoo}/half" }}
  config {{
    name: "b" model_platform: "tensorflow"
    base_path: "{zoo}/half"
    model_version_policy {{ specific {{ versions: 3 versions: 4 }} }}
    version_labels {{ key: "stable" value: 3 }}
    version_labels {{ key: "canary" value: 4 }}
  }}
  config {{ name: "c" base_path: "{tmp_path}/none" model_platform: "tensorflow" }}
}}
""",
    )
    done = run_ferry("check", f"--model_config_file={config}")
    assert done.returncode == 1
    found = done.stderr.splitlines()
    assert found[:4] == [
        f"{config}:2:22: Expected model a to have an absolute path or URI; got base_path()=models/a",
        f"{config}:2:44: Model a requests unsupported platform torch",
        f"{config}:3:12: Illegal to list model a multiple times in config list",
        f"{config}:3:3: Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
        "ModelServerConfig::model_platform, model name is a",
    ]
    assert found[4].startswith(f"{config}:8:5: labels are assigned before any version is available")
    assert found[5:7] == [
        f"{config}:9:5: label canary of model b names version 4, which would not be served.",
        f"{config}:6:5: version 4 of model b is asked for, and {zoo}/half lacks it.",
    ]
    assert found[7].startswith(f"{config}:11:22: Could not find base path {tmp_path}/none")
    assert len(found) == 8


def test_what_does_not_parse_is_told_with_line_and_column(zoo: Path, tmp_path: Path) -> None:
    files = {
        flag: write(tmp_path / flag, "\n  nonsense: 1\n")
        for flag in (
            "batching_parameters_file",
            "monitoring_config_file",
            "tensorflow_session_config_file",
            "model_config_file",
        )
    }
    flags = [f"--{flag}={file}" for flag, file in files.items()]
    report = check([*flags, "--enable_batching", f"--model_base_path={zoo / 'half'}"])
    for file, line in zip(files.values(), lines(report), strict=True):
        assert line.startswith(f"{file}:2:3: Message type ")
        assert line.endswith('has no field named "nonsense".')
    missing = check([f"--model_config_file={tmp_path}/gone"])
    assert lines(missing) == [f"{tmp_path}/gone: {tmp_path}/gone; No such file or directory"]


def test_values_that_cannot_be_used_are_told_at_their_field(zoo: Path, tmp_path: Path) -> None:
    batching = write(
        tmp_path / "b",
        "num_batch_threads { value: 0 }\nmax_batch_size { value: 8 }\nallowed_batch_sizes: 4\n",
    )
    monitoring = write(tmp_path / "m", 'prometheus_config {\n enable: true\n path: "metrics"\n}')
    report = check(
        [
            f"--batching_parameters_file={batching}",
            "--enable_batching",
            f"--monitoring_config_file={monitoring}",
            f"--model_base_path={zoo / 'half'}",
        ]
    )
    assert lines(report) == [
        f"{batching}:1:1: num_batch_threads must be positive; was 0",
        f"{batching}:2:1: Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; "
        "expected 8",
        f"{monitoring}:3:2: the path `metrics` does not start with `/`.",
    ]


def test_files_of_keys_and_tokens_are_read(zoo: Path, tmp_path: Path) -> None:
    keys = write(tmp_path / "ssl.config", 'server_key: "no.key"\nserver_cert: "no.crt"\n')
    tokens = write(tmp_path / "tokens.config", 'token {\n  nobody: "x"\n}\n')
    model = f"--model_base_path={zoo / 'half'}"
    report = check([f"--ssl_config_file={keys}", f"--auth_tokens_file={tokens}", model])
    assert lines(report) == [
        f"{keys}: server_key names {tmp_path / 'no.key'}, which does not exist.",
        f"{tokens}:2:3: not a list of `token {{ name value|sha256 allow }}`.",
    ]


def test_the_versions_that_would_be_served_are_looked_at(zoo: Path, tmp_path: Path) -> None:
    shutil.copytree(zoo / "half" / "3", tmp_path / "m" / "1")
    shutil.copytree(zoo / "half" / "3", tmp_path / "m" / "2")
    (tmp_path / "m" / "1" / "saved_model.pb").write_bytes(b"damaged")
    assert lines(check([f"--model_base_path={tmp_path / 'm'}"])) == []
    (tmp_path / "m" / "2" / "saved_model.pb").unlink()
    report = check([f"--model_base_path={tmp_path / 'm'}"])
    assert report.versions == 1
    assert lines(report)[0].startswith(f"{tmp_path}/m/2: Specified file path does not appear to contain")


def test_an_empty_base_path_and_a_remote_one(tmp_path: Path) -> None:
    (line,) = lines(check([f"--model_base_path={tmp_path}"]))
    assert line.startswith(f"--model_base_path={tmp_path}: No versions of servable default found under base")
    report = check(["--model_base_path=s3://bucket/model"])
    assert (lines(report), report.notes) == ([], ["s3://bucket/model is remote and was not looked at."])


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_is_told(arguments: tuple[str, ...]) -> None:
    assert "tensorflow_model_server's flags" in ferry("check", *arguments)
