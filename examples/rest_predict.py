#!/usr/bin/env python3
"""Asks half_plus_two for a prediction, its status and its metadata over REST.

Usage: python examples/rest_predict.py [--host localhost] [--port 8501]
"""

import argparse
import sys

import requests


def main() -> None:
    """Sends the three requests and prints what they answer."""
    parser = argparse.ArgumentParser(description="half_plus_two over REST")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8501)
    options = parser.parse_args()
    model = f"http://{options.host}:{options.port}/v1/models/half_plus_two"

    with requests.Session() as session:
        try:
            prediction = session.post(f"{model}:predict", json={"instances": [1.0, 2.0, 5.0]}, timeout=30)
            status = session.get(model, timeout=30)
            metadata = session.get(f"{model}/metadata", timeout=30)
        except requests.RequestException as error:
            sys.exit(f"no answer from {model}: {error}")
    for response in (prediction, status, metadata):
        if not response.ok:
            sys.exit(f"{response.url} answered {response.status_code}: {response.text}")

    print("predictions:", prediction.json()["predictions"])
    for version in status.json()["model_version_status"]:
        print(f"version {version['version']}: {version['state']}")
    for name, signature in sorted(metadata.json()["metadata"]["signature_def"]["signature_def"].items()):
        print(f"signature {name}: {', '.join(signature['inputs'])} -> {', '.join(signature['outputs'])}")


if __name__ == "__main__":
    main()
