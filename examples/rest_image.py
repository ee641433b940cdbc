#!/usr/bin/env python3
"""Sends a JPEG or PNG file to image_classifier over REST and prints the five best classes.

Usage: python examples/rest_image.py [--host localhost] [--port 8501] [PICTURE]
"""

import argparse
import base64
import sys
from pathlib import Path

import requests


def main() -> None:
    """Sends the picture and prints the answer."""
    parser = argparse.ArgumentParser(description="image_classifier over REST")
    parser.add_argument("picture", type=Path, nargs="?", default=Path(__file__).with_name("sample.jpg"))
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8501)
    options = parser.parse_args()
    url = f"http://{options.host}:{options.port}/v1/models/image_classifier:predict"

    try:
        # JSON has no bytes: they travel as an object with the one key "b64".
        encoded = base64.b64encode(options.picture.read_bytes()).decode("ascii")
        response = requests.post(url, json={"instances": [{"image_bytes": {"b64": encoded}}]}, timeout=60)
    except requests.RequestException as error:
        sys.exit(f"no answer from {url}: {error}")
    except OSError as error:
        sys.exit(f"cannot read the picture: {error}")
    if not response.ok:
        sys.exit(f"{url} answered {response.status_code}: {response.text}")

    answer = response.json()["predictions"][0]
    for name, score in zip(answer["classes"], answer["scores"], strict=True):
        print(f"{name}  {score:.4f}")


if __name__ == "__main__":
    main()
