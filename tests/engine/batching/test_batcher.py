from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from app.engine.batching.batcher import ConfiguredBatcher, from_options
from app.engine.batching.model import BatchedModel
from app.engine.model import Model
from app.errors import ServingError
from app.options import Options
from app.telemetry.serving_metrics import BatchingMetrics

WRAPPING = "Wrapping session to perform batch processing"


def batcher(metrics: BatchingMetrics, file: Path | None = None, **flags: Any) -> ConfiguredBatcher:
    options = Options(enable_batching=True, batching_parameters_file=str(file or ""), **flags)
    made = from_options(options, metrics)
    assert isinstance(made, ConfiguredBatcher)
    return made


def parameters_file(directory: Path, text: str) -> Path:
    file = directory / "batching_params.pbtxt"
    file.write_text(text)
    return file


def test_without_the_flag_nothing_is_batched(metrics: BatchingMetrics) -> None:
    assert from_options(Options(enable_per_model_batching_parameters=True), metrics) is None


def test_with_the_flag_alone_the_defaults_apply(
    metrics: BatchingMetrics, probe: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = batcher(metrics)
    assert made._parameters.thread_pool_name == "model_server_batch_threads"
    assert made._parameters.num_batch_threads == len(os.sched_getaffinity(0))
    parameters_file(tmp_path, "not read")
    with caplog.at_level(logging.INFO):
        assert isinstance(made.wrap(probe, str(tmp_path)), BatchedModel)
    assert caplog.messages == [WRAPPING]


def test_the_file_is_read_and_its_pool_checked_at_the_start(metrics: BatchingMetrics, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"NOT_FOUND: .*; No such file or directory"):
        batcher(metrics, tmp_path / "missing")
    with pytest.raises(ServingError, match="INVALID_ARGUMENT: num_batch_threads must be positive; was 0"):
        batcher(metrics, parameters_file(tmp_path, "num_batch_threads { value: 0 }"))
    made = batcher(metrics, parameters_file(tmp_path, "thread_pool_name { value: 'mine' }"))
    assert made._parameters.thread_pool_name == "mine"


def test_the_rest_is_checked_when_a_model_loads(
    metrics: BatchingMetrics, probe: Model, tmp_path: Path
) -> None:
    made = batcher(metrics, parameters_file(tmp_path, "max_batch_size { value: 0 }"))
    with pytest.raises(ServingError, match="input_batch_size_limit must be positive; was 0"):
        made.wrap(probe, str(tmp_path))


def test_a_version_may_have_parameters_of_its_own(
    metrics: BatchingMetrics, probe: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    common = tmp_path / "common"
    common.write_text("max_batch_size { value: 4 } allowed_batch_sizes: 4 batch_timeout_micros { value: 7 }")
    made = batcher(metrics, common, enable_per_model_batching_parameters=True)
    with caplog.at_level(logging.INFO):
        assert made.wrap(probe, str(tmp_path)) is probe
        assert caplog.messages == []
        # Nothing is inherited: with max_batch_size 4 these sizes would be refused. The pool is not theirs.
        file = parameters_file(tmp_path, "allowed_batch_sizes: 1000 num_batch_threads { value: 0 }")
        assert isinstance(made.wrap(probe, str(tmp_path)), BatchedModel)
        assert caplog.messages == [WRAPPING]
    file.write_text("max_batch_size: 4")
    with pytest.raises(ServingError) as raised:
        made.wrap(probe, str(tmp_path))
    assert str(raised.value) == f"INVALID_ARGUMENT: Invalid protobuf file: '{file}'"
    file.write_text("max_batch_size { value: 3 } allowed_batch_sizes: 4")
    with pytest.raises(ServingError, match="last entry was 4; expected 3"):
        made.wrap(probe, str(tmp_path))
