from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf

from app.telemetry import gpu_memory
from app.telemetry.metrics import Registry


def test_without_a_gpu_there_is_no_metric() -> None:
    registry = Registry()
    gpu_memory.add_gpu_memory(registry)
    assert registry.metrics() == []


def test_what_tensorflow_says_of_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    config: Any = tf.config  # stands where two GPUs would be
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: [kind, kind])
    monkeypatch.setattr(
        config.experimental, "get_memory_info", lambda device: {"peak": 9, "current": int(device[-1])}
    )
    registry = Registry()
    gpu_memory.add_gpu_memory(registry)
    (metric,) = registry.metrics()
    assert metric.cells() == [
        (("GPU:0", "current"), 0),
        (("GPU:0", "peak"), 9),
        (("GPU:1", "current"), 1),
        (("GPU:1", "peak"), 9),
    ]
