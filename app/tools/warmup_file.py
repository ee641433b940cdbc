"""Requests to a version's warm-up file."""

from __future__ import annotations

import os
from collections.abc import Sequence

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from app.api.warmup import FILE, MAX_RECORDS
from app.errors import invalid_argument
from app.tools.inputs import Request


def write_warmup_file(path: str, requests: Sequence[Request], model: str) -> None:
    """Write `requests` to the warm-up file of the version directory `path`, in place of one that is there.

    Raises:
        ServingError: INVALID_ARGUMENT for more than a server replays.
    """
    if len(requests) > MAX_RECORDS:
        raise invalid_argument(f"{len(requests)} warm-up requests: {MAX_RECORDS} are the most.")
    file = os.path.join(path, FILE)
    os.makedirs(os.path.dirname(file), exist_ok=True)
    with tf.io.TFRecordWriter(file) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog()
            getattr(log, f"{request.method}_log").request.CopyFrom(request.message(model))
            writer.write(log.SerializeToString())
