#!/usr/bin/env python3
"""Sends a JPEG or PNG file to image_classifier over gRPC, first as it is and then as an array of floats.

Usage: python examples/grpc_image.py [--host localhost] [--port 8500] [PICTURE]
"""

import argparse
import os
import sys
from pathlib import Path

# TensorFlow is here only for its messages and to decode the picture: keep its start quiet.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def main() -> None:
    """Sends both requests and prints the answers."""
    parser = argparse.ArgumentParser(description="image_classifier over gRPC")
    parser.add_argument("picture", type=Path, nargs="?", default=Path(__file__).with_name("sample.jpg"))
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8500)
    options = parser.parse_args()
    address = f"{options.host}:{options.port}"

    try:
        data = options.picture.read_bytes()
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
    except (OSError, tf.errors.InvalidArgumentError) as error:
        sys.exit(f"cannot read the picture: {error}")

    # The model decodes the file by itself ...
    file_request = predict_pb2.PredictRequest()
    file_request.model_spec.name = "image_classifier"
    file_request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([data]))

    # ... or takes pixels between 0 and 1 through its other signature.
    pixels = tf.image.resize(image, [224, 224]) / 255.0
    array_request = predict_pb2.PredictRequest()
    array_request.model_spec.name = "image_classifier"
    array_request.model_spec.signature_name = "array"
    array_request.inputs["image"].CopyFrom(tf.make_tensor_proto(pixels[tf.newaxis].numpy()))

    with grpc.insecure_channel(address) as channel:
        service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            by_file = service.Predict(file_request, timeout=60).outputs
            by_array = service.Predict(array_request, timeout=60).outputs
        except grpc.RpcError as error:
            sys.exit(f"no answer from {address}: {error.code().name}: {error.details()}")

    names, scores = tf.make_ndarray(by_file["classes"])[0], tf.make_ndarray(by_file["scores"])[0]
    for name, score in zip(names, scores, strict=True):
        print(f"{name.decode()}  {score:.4f}")
    every_score = tf.make_ndarray(by_array["scores"])[0]
    print(f"array: best is number {every_score.argmax()} of {every_score.size} with {every_score.max():.4f}")


if __name__ == "__main__":
    main()
