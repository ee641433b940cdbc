from __future__ import annotations

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import logging_config_pb2

from app.config.request_logging import RequestLogging, from_proto
from app.errors import ServingError


def read(text: str) -> RequestLogging:
    return from_proto("m", text_format.Parse(text, logging_config_pb2.LoggingConfig()))


@pytest.mark.parametrize("kind", ["", 'type: "tfrecord"'])
def test_what_is_recorded_where(kind: str) -> None:
    text = f'log_collector_config {{ {kind} filename_prefix: "/logs//m" }}'
    text += " sampling_config { sampling_rate: 0.5 }"
    assert read(text) == RequestLogging("/logs/m", 0.5)


def test_without_a_rate_nothing_is_recorded() -> None:
    assert read('log_collector_config { filename_prefix: "/m" }').sampling_rate == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'log_collector_config { type: "sink" filename_prefix: "/m" }',
            "NOT_FOUND: Cannot find LogCollector::Factory for type: sink (model m); "
            "the only one here is `tfrecord`.",
        ),
        (
            'log_collector_config { filename_prefix: "/m" } sampling_config { sampling_rate: -0.5 }',
            "INVALID_ARGUMENT: The sampling_rate of model m's logging_config must be between 0 and 1; "
            "was -0.5.",
        ),
        (
            'log_collector_config { filename_prefix: "/m" } sampling_config { sampling_rate: nan }',
            "INVALID_ARGUMENT: The sampling_rate of model m's logging_config must be between 0 and 1; "
            "was nan.",
        ),
        (
            'log_collector_config { filename_prefix: "/m" } custom_logging_config { type_url: "x" }',
            "INVALID_ARGUMENT: Model m has a custom_logging_config, for which there is no logger; "
            "leave it out.",
        ),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ServingError) as caught:
        read(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("prefix", ["", "logs/m", "gs://bucket/m", "/logs/"])
def test_prefixes_that_are_refused(prefix: str) -> None:
    with pytest.raises(ServingError, match=f"model m's logging_config is `{prefix}`; it must be an absolute"):
        read(f'log_collector_config {{ filename_prefix: "{prefix}" }}')
