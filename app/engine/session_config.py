"""The flags that shape TensorFlow's sessions, as a `ConfigProto`."""

from __future__ import annotations

import os
from typing import Any

from google.protobuf import text_format
from tensorflow.core.protobuf import config_pb2

from app.config import text_proto
from app.cpus import usable_cpus
from app.options import Options


def session_config(options: Options) -> Any:
    """The configuration of every model's session.

    Intra- and inter-op threads come from their own flags if either is positive, else both from
    --tensorflow_session_parallelism; these and the GPU fraction win over what
    --tensorflow_session_config_file says, even when they are 0. All as in TensorFlow Serving.

    Threads that nothing asks for are as many as the usable CPUs, shared out among the workers: TensorFlow
    would not see a quota.
    Memory on a GPU grows as needed, unless a fraction is given or the file sets `allow_growth`.

    Raises:
        ServingError: the file cannot be read or does not parse.
    """
    config = config_pb2.ConfigProto()
    if options.tensorflow_session_config_file:
        text_proto.read(options.tensorflow_session_config_file, config)
    config.allow_soft_placement = True
    intra, inter = _asked_threads(options)
    config.intra_op_parallelism_threads = intra or _default_threads("TF_NUM_INTRAOP_THREADS", options)
    config.inter_op_parallelism_threads = inter or _default_threads("TF_NUM_INTEROP_THREADS", options)
    config.gpu_options.per_process_gpu_memory_fraction = options.per_process_gpu_memory_fraction
    config.gpu_options.allow_growth = _allow_growth(options)
    return config


def in_callers_thread(options: Options, config: Any) -> bool:
    """Whether a graph runs in the thread of its request, one op after the other.

    That saves the hand-over to another thread, more than a small graph takes. Not so if several ops
    at a time were asked for: by a flag, or by a pool of the session's own in `config`.
    """
    _, inter = _asked_threads(options)
    return inter <= 1 and not config.session_inter_op_thread_pool and not config.use_per_session_threads


def _allow_growth(options: Options) -> bool:
    """Whether GPU memory grows: what the file says, else if no fraction is given."""
    config = config_pb2.ConfigProto()
    config.gpu_options.allow_growth = options.per_process_gpu_memory_fraction <= 0
    if options.tensorflow_session_config_file:
        # Once more, upon the default: a parsed message does not tell false from nothing.
        with open(options.tensorflow_session_config_file, encoding="utf-8") as stream:
            text_format.Merge(stream.read(), config)
    return bool(config.gpu_options.allow_growth)


def _asked_threads(options: Options) -> tuple[int, int]:
    """Intra- and inter-op threads by the flags; 0 where the choice is left to the server."""
    intra = options.tensorflow_intra_op_parallelism
    inter = options.tensorflow_inter_op_parallelism
    if intra <= 0 and inter <= 0:
        intra = inter = options.tensorflow_session_parallelism
    return max(0, intra), max(0, inter)


def _default_threads(variable: str, options: Options) -> int:
    """This process's share of the CPUs; 0, TensorFlow's own choice, where the environment makes one."""
    return 0 if os.environ.get(variable) else max(1, usable_cpus() // options.server_workers)
