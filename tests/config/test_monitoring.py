from __future__ import annotations

import logging
from pathlib import Path

import pytest

from app.config.monitoring import PrometheusConfig, read_file
from app.errors import ServingError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prometheus_config { enable: true }", PrometheusConfig("/monitoring/prometheus/metrics")),
        ('prometheus_config: { enable: true, path: "/m" }', PrometheusConfig("/m")),
        ("prometheus_config { enable: true path: '' }", PrometheusConfig("/monitoring/prometheus/metrics")),
        ('prometheus_config { enable: false path: "/m" }', None),
        ('prometheus_config { path: "/m" }', None),
        ("# nothing\n", None),
    ],
)
def test_what_a_file_says(tmp_path: Path, text: str, expected: PrometheusConfig | None) -> None:
    file = tmp_path / "monitoring.config"
    file.write_text(text)
    for _ in range(2):  # the message can be made more than once
        assert read_file(str(file)) == expected


def test_a_path_that_cannot_be_requested_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "monitoring.config"
    file.write_text('prometheus_config { enable: true path: "metrics" }')
    with caplog.at_level(logging.WARNING):
        assert read_file(str(file)) == PrometheusConfig("metrics")
    assert caplog.messages == [
        f"The path `metrics` of prometheus_config in {file} can never be requested; write `/metrics`."
    ]


def test_bad_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "monitoring.config"

    def error() -> str:
        with pytest.raises(ServingError) as raised:
            read_file(str(file))
        return str(raised.value)

    assert error() == f"NOT_FOUND: {file}; No such file or directory"
    file.write_text("")
    assert error() == f"INVALID_ARGUMENT: {file}; Invalid argument"
    file.write_text("prometheus_config { enable: maybe }")
    with caplog.at_level(logging.ERROR):
        assert error() == f"INVALID_ARGUMENT: Invalid protobuf file: '{file}'"
    assert "Error parsing text-format tensorflow.serving.MonitoringConfig: 1:" in caplog.text
