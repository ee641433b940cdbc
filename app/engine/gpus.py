"""Which devices a model is put on, and what to say when there is no GPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from app.engine.placement import devices
from app.errors import Code, ServingError, invalid_argument
from app.options import Options

ANYWHERE = ""
"""No device in particular: TensorFlow places the graph, on the first GPU or else on the CPU."""


def replica_devices(
    options: Options, config: Any, *, required: bool = False, kind: str = "GPU"
) -> tuple[str, ...]:
    """The devices that get a replica of each model.

    Args:
        options: --gpu_replicas and --allow_no_gpu.
        config: the `ConfigProto` of the models' sessions.
        required: whether a server without a GPU is a mistake, as in the image for GPUs.
        kind: the kind of device; `CPU` stands for GPUs on machines that have none.

    Returns:
        Names such as `/device:GPU:1`, or ANYWHERE alone for a single model.

    Raises:
        ServingError: FAILED_PRECONDITION without a GPU where one is required, INVALID_ARGUMENT for more
            replicas than GPUs, and what TensorFlow answers if it cannot set its devices up.
    """
    found = devices(config, kind)
    if not found and options.allow_no_gpu:
        return (ANYWHERE,)
    if not found and required:
        raise ServingError(
            Code.FAILED_PRECONDITION,
            "This server is meant for GPUs (FERRY_REQUIRE_GPU is set), but TensorFlow finds none: "
            f"{_cause()}. Start the container with `docker run --gpus all`, on a host with NVIDIA's "
            "container toolkit and a driver for CUDA 12 (525 or newer; `nvidia-smi` tells), or pass "
            "--allow_no_gpu to serve on the CPU.",
        )
    if found and kind == "GPU" and options.server_workers > 1:
        raise invalid_argument(
            f"--server_workers is {options.server_workers}, but TensorFlow finds {len(found)} GPUs, and "
            "each process would hold each model on them. Use --server_workers=1, or hide the GPUs with "
            "CUDA_VISIBLE_DEVICES=-1."
        )
    if options.gpu_replicas > max(1, len(found)):
        raise invalid_argument(
            f"--gpu_replicas is {options.gpu_replicas}, but TensorFlow finds {len(found)} GPUs. Lower it "
            "(0: one replica for each GPU) or let the server see more GPUs."
        )
    replicas = options.gpu_replicas or len(found)
    return found[:replicas] if replicas > 1 else (ANYWHERE,)


def _cause(root: Path = Path("/")) -> str:
    """Why there may be no GPU, as far as it can be seen from here."""
    if not tf.test.is_built_with_cuda():
        return "it is built without CUDA"
    nodes = sorted(node.name for node in (root / "dev").glob("nvidia[0-9]*"))
    if not nodes:
        return "there is no /dev/nvidia0"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible!r}"
    return f"there is /dev/{' and /dev/'.join(nodes)}, but CUDA cannot use it{hidden}"
