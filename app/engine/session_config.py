"""The flags that shape TensorFlow's sessions, as a `ConfigProto`."""

from __future__ import annotations

from typing import Any

from tensorflow.core.protobuf import config_pb2

from app.config import text_proto
from app.options import Options


def session_config(options: Options) -> Any:
    """The configuration of every model's session.

    Intra- and inter-op threads come from their own flags if either is positive, else both from
    --tensorflow_session_parallelism; these and the GPU fraction win over what
    --tensorflow_session_config_file says, even when they are 0. All as in TensorFlow Serving.
    Memory on a GPU grows as needed unless a fraction is given.

    Raises:
        ServingError: the file cannot be read or does not parse.
    """
    intra = options.tensorflow_intra_op_parallelism
    inter = options.tensorflow_inter_op_parallelism
    if intra <= 0 and inter <= 0:
        intra = inter = max(0, options.tensorflow_session_parallelism)
    config = config_pb2.ConfigProto()
    if options.tensorflow_session_config_file:
        text_proto.read(options.tensorflow_session_config_file, config)
    config.allow_soft_placement = True
    config.intra_op_parallelism_threads = max(0, intra)
    config.inter_op_parallelism_threads = max(0, inter)
    config.gpu_options.per_process_gpu_memory_fraction = options.per_process_gpu_memory_fraction
    if options.per_process_gpu_memory_fraction <= 0:
        config.gpu_options.allow_growth = True
    return config
