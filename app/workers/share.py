"""What each worker gets of what the flags allow the whole server."""

from __future__ import annotations

import os
from dataclasses import replace
from math import ceil

from app.options import Options


def share_of(options: Options, worker: int) -> Options:
    """The flags of one worker.

    Limits and threads are the server's: each worker has an equal part of them, rounded up. A cache of models
    has room for one process in each directory.

    Args:
        options: the flags as they were given.
        worker: its number, from 0 on.
    """
    count = options.server_workers
    if count == 1:
        return options
    divided = {
        name: ceil(getattr(options, name) / count)
        for name in (
            *("max_connections", "max_in_flight_requests", "request_log_max_files"),
            *("rest_api_num_threads", "grpc_max_threads", "num_tflite_pools"),
        )
    }
    cache = options.model_cache_dir and os.path.join(options.model_cache_dir, f"worker-{worker}")
    return replace(
        options,
        **divided,
        max_requests_per_second_per_model=options.max_requests_per_second_per_model / count,
        model_cache_dir=cache,
    )
