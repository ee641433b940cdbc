from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from app.config.model_config import ModelConfig, check_platform, from_proto, read_file
from app.config.version_policy import VersionPolicy
from app.errors import ServingError

A = 'name: "a" base_path: "/a" model_platform: "tensorflow"'


def models(*configs: str) -> list[ModelConfig]:
    text = " ".join(f"config {{ {config} }}" for config in configs)
    return list(from_proto(text_format.Parse(text, model_server_config_pb2.ModelConfigList())))


def failure(*configs: str) -> str:
    with pytest.raises(ServingError) as raised:
        models(*configs)
    return str(raised.value)


def test_a_model_with_everything() -> None:
    labels = "version_labels { key: 'stable' value: 1 } version_labels { key: 'canary' value: 2 }"
    policy = "model_version_policy { specific { versions: 1 versions: 2 } }"
    assert models(f"{A} {policy} {labels}") == [
        ModelConfig(
            name="a",
            base_path="/a",
            policy=VersionPolicy(latest=None, specific=frozenset({1, 2})),
            labels={"stable": 1, "canary": 2},
        )
    ]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", VersionPolicy(latest=1)),
        ("model_version_policy {}", VersionPolicy(latest=1)),
        ("model_version_policy { latest { num_versions: 3 } }", VersionPolicy(latest=3)),
        ("model_version_policy { latest { num_versions: 0 } }", VersionPolicy(latest=1)),
        ("model_version_policy { all {} }", VersionPolicy(latest=None)),
        ("model_version_policy { specific {} }", VersionPolicy(latest=None, specific=frozenset())),
    ],
)
def test_policies(policy: str, expected: VersionPolicy) -> None:
    (model,) = models(f"{A} {policy}")
    assert model.policy == expected


def test_the_deprecated_model_type_is_a_platform() -> None:
    (model,) = models('name: "a" base_path: "/a" model_type: TENSORFLOW')
    check_platform(model)


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ((A, A), "Illegal to list model a multiple times in config list"),
        (
            ('name: "a" base_path: "a" model_platform: "tensorflow"',),
            "Expected model a to have an absolute path or URI; got base_path()=a",
        ),
        (
            (f"{A} model_type: TENSORFLOW",),
            "Illegal setting both ModelServerConfig::model_type (deprecated) and "
            "ModelServerConfig::model_platform, model name is a",
        ),
        (
            ('name: "a" base_path: "/a"',),
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform, model name is a",
        ),
        (
            ('name: "a" base_path: "/a" model_type: OTHER',),
            "ModelServerConfig::model_type choice 2 not supported.",
        ),
        (
            (f"{A} logging_config {{}}",),
            "The filename_prefix of model a's logging_config is ``; it must be an absolute path of this "
            "machine with the beginning of a file name, such as /logs/requests.",
        ),
    ],
)
def test_what_is_refused(configs: tuple[str, ...], message: str) -> None:
    assert failure(*configs) == f"INVALID_ARGUMENT: {message}"


def test_another_platform_is_refused() -> None:
    (model,) = models('name: "a" base_path: "/a" model_platform: "hashmap"')
    with pytest.raises(ServingError, match="Model a requests unsupported platform hashmap"):
        check_platform(model)


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text(f"model_config_list {{ config {{ {A} }} }}")
    assert read_file(str(file)) == [ModelConfig("a", "/a")]
    file.write_text("model_config_list {}")
    assert read_file(str(file)) == []
    file.write_text("# nothing")
    assert read_file(str(file)) is None
    file.write_text("custom_model_config {}")
    with pytest.raises(ServingError, match="does not yet support custom model config"):
        read_file(str(file))
