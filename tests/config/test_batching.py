from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from app.config.batching import BatchingParameters, read_file
from app.cpus import usable_cpus
from app.errors import Code, ServingError


def read(tmp_path: Path, text: str) -> BatchingParameters:
    file = tmp_path / "batching.config"
    file.write_text(text)
    return read_file(str(file))


def test_an_empty_message_has_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, "# nothing\n") == BatchingParameters(
        max_batch_size=1000,
        batch_timeout_micros=0,
        max_enqueued_batches=10,
        num_batch_threads=usable_cpus(),
        thread_pool_name="batch_threads",
        allowed_batch_sizes=(),
        pad_variable_length_inputs=False,
        enable_large_batch_splitting=False,
        max_execution_batch_size=1000,
    )


def test_every_field(tmp_path: Path) -> None:
    text = """
        max_batch_size { value: 128 } batch_timeout_micros: { value: 5 }, max_enqueued_batches { value: 7 };
        num_batch_threads { value: 8 } thread_pool_name { value: 'pool' } allowed_batch_sizes: [32, 64]
        allowed_batch_sizes: 128 pad_variable_length_inputs: true
        enable_large_batch_splitting { value: true } max_execution_batch_size { value: 64 }
    """
    for _ in range(2):  # the message can be made more than once
        assert read(tmp_path, text) == BatchingParameters(128, 5, 7, 8, "pool", (32, 64, 128), True, True, 64)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (" ", 1000),
        ("enable_large_batch_splitting { value: true }", 1000),
        ("max_batch_size { value: 8 }", 8),
        ("max_batch_size { value: 8 } enable_large_batch_splitting { value: true }", 8),
        ("max_batch_size { value: 8 } max_execution_batch_size { value: 4 }", 8),
        (
            "max_batch_size { value: 8 } max_execution_batch_size { value: 4 } "
            "enable_large_batch_splitting { value: true }",
            4,
        ),
    ],
)
def test_the_limit_of_a_batch(tmp_path: Path, text: str, limit: int) -> None:
    parameters = read(tmp_path, text)
    parameters.check_queues()
    assert parameters.batch_limit == limit


def test_bad_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "batching.config"

    def error() -> str:
        with pytest.raises(ServingError) as raised:
            read_file(str(file))
        return str(raised.value)

    assert error() == f"NOT_FOUND: {file}; No such file or directory"
    file.write_text("")
    assert error() == f"INVALID_ARGUMENT: {file}; Invalid argument"
    file.write_text("max_batch_size: 4")
    with caplog.at_level(logging.ERROR):
        assert error() == f"INVALID_ARGUMENT: Invalid protobuf file: '{file}'"
    assert "Error parsing text-format tensorflow.serving.BatchingParameters: 1:" in caplog.text


@pytest.mark.parametrize("threads", [0, -1])
def test_a_pool_needs_threads(threads: int) -> None:
    with pytest.raises(ServingError) as raised:
        BatchingParameters(num_batch_threads=threads).check_pool()
    assert str(raised.value) == f"INVALID_ARGUMENT: num_batch_threads must be positive; was {threads}"
    BatchingParameters(num_batch_threads=1).check_pool()


LAST = "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_batch_size": 4, "allowed_batch_sizes": (2, 3)}, LAST + "3; expected 4"),
        ({"allowed_batch_sizes": (2, 8)}, LAST + "8; expected 1000"),
        ({"max_batch_size": 4, "allowed_batch_sizes": (4, 2)}, LAST + "2; expected 4"),
        ({"max_batch_size": 0}, "input_batch_size_limit must be positive; was 0"),
        ({"max_batch_size": -1}, "input_batch_size_limit must be positive; was -1"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros must be non-negative; was -1"),
        (
            {"enable_large_batch_splitting": True, "max_enqueued_batches": 0},
            "max_enqueued_batches must be positive; was 0",
        ),
        ({"max_enqueued_batches": -1}, "max_enqueued_batches must be positive; was -1"),
        (
            {"enable_large_batch_splitting": True, "max_execution_batch_size": 0},
            "max_execution_batch_size must be positive; was 0",
        ),
        (
            {"enable_large_batch_splitting": True, "max_batch_size": 4, "max_execution_batch_size": 5},
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal "
            "to max_execution_batch_size. max_batch_size was 4; max_execution_batch_size was 5",
        ),
    ],
)
def test_what_queues_cannot_work_with(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ServingError) as raised:
        BatchingParameters(**values).check_queues()
    assert (raised.value.code, raised.value.message) == (Code.INVALID_ARGUMENT, message)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"max_batch_size": 4, "allowed_batch_sizes": (3, 2, 4)},
        {"max_enqueued_batches": 0},
        {"max_batch_size": 4, "max_execution_batch_size": 5},
        {"enable_large_batch_splitting": True, "max_batch_size": 4, "max_execution_batch_size": 4},
    ],
)
def test_what_they_can_work_with(values: dict[str, Any]) -> None:
    BatchingParameters(**values).check_queues()
