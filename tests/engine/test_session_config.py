from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.engine.session_config import session_config
from app.errors import ServingError
from app.options import Options


def threads(**values: Any) -> tuple[int, int]:
    config = session_config(Options(**values))
    return config.intra_op_parallelism_threads, config.inter_op_parallelism_threads


@pytest.mark.parametrize(
    ("session", "intra", "inter", "expected"),
    [
        (0, 0, 0, (0, 0)),
        (3, 0, 0, (3, 3)),
        (3, 2, 0, (2, 0)),
        (3, 0, 2, (0, 2)),
        (0, 1, 2, (1, 2)),
        (-1, 0, 0, (0, 0)),
        (3, -1, -1, (3, 3)),
        (0, -1, 2, (0, 2)),
    ],
)
def test_own_flags_come_before_the_common_one(
    session: int, intra: int, inter: int, expected: tuple[int, int]
) -> None:
    found = threads(
        tensorflow_session_parallelism=session,
        tensorflow_intra_op_parallelism=intra,
        tensorflow_inter_op_parallelism=inter,
    )
    assert found == expected


def test_gpu_memory_grows_unless_a_fraction_is_given() -> None:
    assert session_config(Options()).gpu_options.allow_growth
    gpu_options = session_config(Options(per_process_gpu_memory_fraction=0.25)).gpu_options
    assert not gpu_options.allow_growth
    assert gpu_options.per_process_gpu_memory_fraction == 0.25


def test_ops_may_run_where_there_is_a_kernel() -> None:
    assert session_config(Options()).allow_soft_placement


def test_a_file_gives_the_rest_and_the_flags_win(tmp_path: Path) -> None:
    file = tmp_path / "session.config"
    file.write_text(
        "intra_op_parallelism_threads: 7 log_device_placement: true gpu_options { visible_device_list: '1' }"
    )
    config = session_config(Options(tensorflow_session_config_file=str(file)))
    assert config.log_device_placement
    assert config.gpu_options.visible_device_list == "1"
    assert config.intra_op_parallelism_threads == 0
    assert config.allow_soft_placement


def test_a_bad_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "session.config"
    file.write_text("nope: 1")
    with pytest.raises(ServingError, match="Invalid protobuf file"):
        session_config(Options(tensorflow_session_config_file=str(file)))
