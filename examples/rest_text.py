#!/usr/bin/env python3
"""Sends texts to text_classifier over REST and prints the class of each.

Usage: python examples/rest_text.py [--host localhost] [--port 8501] [TEXT ...]
"""

import argparse
import sys

import requests


def main() -> None:
    """Sends the texts, all in one request, and prints the answers."""
    parser = argparse.ArgumentParser(description="text_classifier over REST")
    parser.add_argument("texts", metavar="TEXT", nargs="*")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8501)
    options = parser.parse_args()
    texts = options.texts or ["I love this, it is great!", "The worst film, slow and boring."]
    url = f"http://{options.host}:{options.port}/v1/models/text_classifier:predict"

    try:
        response = requests.post(url, json={"instances": [{"text": text} for text in texts]}, timeout=30)
    except requests.RequestException as error:
        sys.exit(f"no answer from {url}: {error}")
    if not response.ok:
        sys.exit(f"{url} answered {response.status_code}: {response.text}")

    for text, answer in zip(texts, response.json()["predictions"], strict=True):
        print(f"{answer['classes'][0]} {answer['scores'][0]:.4f}  {text}")


if __name__ == "__main__":
    main()
