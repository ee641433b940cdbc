#!/usr/bin/env python3
"""Asks half_plus_two for a prediction, its status and its metadata over gRPC.

Usage: python examples/grpc_predict.py [--host localhost] [--port 8500]
"""

import argparse
import os
import sys

# TensorFlow is here only for its messages: keep its start quiet.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)


def main() -> None:
    """Sends the three requests and prints what they answer."""
    parser = argparse.ArgumentParser(description="half_plus_two over gRPC")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8500)
    options = parser.parse_args()
    address = f"{options.host}:{options.port}"

    predict = predict_pb2.PredictRequest()
    predict.model_spec.name = "half_plus_two"
    predict.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0, 2.0, 5.0]))
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "half_plus_two"
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = "half_plus_two"

    with grpc.insecure_channel(address) as channel:
        prediction_service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        model_service = model_service_pb2_grpc.ModelServiceStub(channel)
        try:
            prediction = prediction_service.Predict(predict, timeout=30)
            versions = model_service.GetModelStatus(status, timeout=30).model_version_status
            fields = prediction_service.GetModelMetadata(metadata, timeout=30).metadata
        except grpc.RpcError as error:
            sys.exit(f"no answer from {address}: {error.code().name}: {error.details()}")

    print("y:", tf.make_ndarray(prediction.outputs["y"]).tolist())
    for version in versions:
        state = get_model_status_pb2.ModelVersionStatus.State.Name(version.state)
        print(f"version {version.version}: {state}")
    signatures = get_model_metadata_pb2.SignatureDefMap()
    fields["signature_def"].Unpack(signatures)
    for name, signature in sorted(signatures.signature_def.items()):
        print(f"signature {name}: {', '.join(signature.inputs)} -> {', '.join(signature.outputs)}")


if __name__ == "__main__":
    main()
