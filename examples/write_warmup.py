#!/usr/bin/env python3
"""Writes a warm-up file for half_plus_two: requests that a server replays before it serves a version.

Usage: python examples/write_warmup.py VERSION_DIRECTORY
"""

import argparse
import os
import sys
from pathlib import Path

# TensorFlow is here only for its messages and files: keep its start quiet.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

BATCH_SIZES = (1, 8, 32)  # those that clients will send


def main() -> None:
    """Writes a Predict request of each batch size and one Regress request."""
    parser = argparse.ArgumentParser(description="a warm-up file for half_plus_two")
    parser.add_argument("version", type=Path, help="such as models-sample/half_plus_two/00000123")
    version = parser.parse_args().version
    if not (version / "saved_model.pb").exists():
        sys.exit(
            f"{version} holds no saved_model.pb: name a version directory, such as .../half_plus_two/00000123"
        )

    logs = []
    for size in BATCH_SIZES:
        log = prediction_log_pb2.PredictionLog()
        request = log.predict_log.request
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([0.0] * size))
        logs.append(log)
    log = prediction_log_pb2.PredictionLog()
    log.regress_log.request.model_spec.signature_name = "regress_x_to_y"
    example = log.regress_log.request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(0.0)
    logs.append(log)

    file = version / "assets.extra" / "tf_serving_warmup_requests"
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())
    print(f"{file}: {len(logs)} requests")


if __name__ == "__main__":
    main()
