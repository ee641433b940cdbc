from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from app.engine import gpus
from app.engine.gpus import ANYWHERE, replica_devices
from app.engine.session_config import session_config
from app.errors import Code, ServingError
from app.options import Options

needs_no_gpu = pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU on this machine"
)


def config(cpus: int) -> Any:
    made = session_config(Options())
    made.device_count["CPU"] = cpus
    return made


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        (1, 0, (ANYWHERE,)),
        (1, 1, (ANYWHERE,)),
        (2, 0, ("/device:CPU:0", "/device:CPU:1")),
        (2, 1, (ANYWHERE,)),
        (3, 2, ("/device:CPU:0", "/device:CPU:1")),
    ],
)
def test_one_replica_for_each_device_or_as_many_as_asked_for(
    found: int, wanted: int, expected: tuple[str, ...]
) -> None:
    assert replica_devices(Options(gpu_replicas=wanted), config(found), kind="CPU") == expected


@pytest.mark.parametrize(("found", "wanted"), [(1, 2), (2, 3)])
def test_more_replicas_than_devices_are_refused(found: int, wanted: int) -> None:
    with pytest.raises(ServingError) as raised:
        replica_devices(Options(gpu_replicas=wanted), config(found), kind="CPU")
    assert str(raised.value) == (
        f"INVALID_ARGUMENT: --gpu_replicas is {wanted}, but TensorFlow finds {found} GPUs. Lower it (0: one "
        "replica for each GPU) or let the server see more GPUs."
    )


@needs_no_gpu
def test_without_a_gpu_there_is_one_model() -> None:
    assert replica_devices(Options(), config(2)) == (ANYWHERE,)
    with pytest.raises(ServingError, match="--gpu_replicas is 2, but TensorFlow finds 0 GPUs"):
        replica_devices(Options(gpu_replicas=2), config(2))


@needs_no_gpu
def test_a_required_gpu_that_is_missing_is_an_error_unless_it_is_allowed() -> None:
    with pytest.raises(ServingError) as raised:
        replica_devices(Options(), config(1), required=True)
    assert raised.value.code is Code.FAILED_PRECONDITION
    for words in ("FERRY_REQUIRE_GPU", "docker run --gpus all", "driver", "--allow_no_gpu"):
        assert words in raised.value.message
    allowed = Options(allow_no_gpu=True, gpu_replicas=2)
    assert replica_devices(allowed, config(1), required=True) == (ANYWHERE,)


def test_the_cause_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: False)
    assert gpus._cause(tmp_path) == "it is built without CUDA"
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: True)
    assert gpus._cause(tmp_path) == "there is no /dev/nvidia0"
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / "dev" / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus._cause(tmp_path) == "there is /dev/nvidia0 and /dev/nvidia1, but CUDA cannot use it"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus._cause(tmp_path).endswith(" with CUDA_VISIBLE_DEVICES=''")
