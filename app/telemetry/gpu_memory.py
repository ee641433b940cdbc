"""GPU memory as TensorFlow's allocators see it: what models hold, not what the driver has reserved."""

from __future__ import annotations

import tensorflow as tf

from app.telemetry.instruments import Cells
from app.telemetry.metrics import Registry


def add_gpu_memory(registry: Registry) -> None:
    """Add `/ferry/gpu_memory_bytes` to `registry` if TensorFlow sees a GPU."""
    count = len(tf.config.list_physical_devices("GPU"))
    if not count:
        return

    def read() -> Cells:
        return [
            ((f"GPU:{index}", kind), size)
            for index in range(count)
            for kind, size in sorted(tf.config.experimental.get_memory_info(f"GPU:{index}").items())
        ]

    registry.view(
        "/ferry/gpu_memory_bytes",
        "gauge",
        ("device", "kind"),
        read,
        "What models and their runs hold: current, and the peak so far.",
    )
