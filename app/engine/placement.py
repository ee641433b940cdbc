"""The devices that TensorFlow sees, and a model's graph on one of them."""

from __future__ import annotations

from itertools import chain
from typing import Any

import tensorflow as tf

from app.engine.status import tensorflow_errors


def devices(config: Any, kind: str) -> tuple[str, ...]:
    """The devices of a kind that a session with `config` has, such as `/device:GPU:0`, in order.

    Asking a session respects all that hides devices: the environment and `config` itself.

    Args:
        config: a `ConfigProto`. TensorFlow fixes some of it for the process with the first session.
        kind: `GPU` or `CPU`.

    Raises:
        ServingError: what TensorFlow answers if it cannot set its devices up so.
    """
    with tensorflow_errors(), tf.compat.v1.Session(graph=tf.Graph(), config=config) as session:
        specs = [tf.DeviceSpec.from_string(device.name) for device in session.list_devices()]
    indices = sorted(spec.device_index for spec in specs if spec.device_type == kind)
    return tuple(f"/device:{kind}:{index}" for index in indices)


def place(meta_graph: Any, device: str) -> None:
    """Put a `MetaGraphDef` on `device`, in place: its graph and its functions.

    What asks for a CPU stays there (reading checkpoints, parsing). What has no kernel on `device` runs
    on the CPU as well, if the session allows soft placement.

    The nodes are rewritten because nothing else does it for a whole model: `tf.device` does not reach
    into functions, and TensorFlow has one list of visible GPUs for all sessions of a process.
    """
    graph = meta_graph.graph_def
    for node in chain(graph.node, *(function.node_def for function in graph.library.function)):
        if tf.DeviceSpec.from_string(node.device).device_type in (None, "GPU"):
            node.device = device
