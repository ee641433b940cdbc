"""The two Dockerfiles are one but for what a GPU needs; the locks are one but for TensorFlow."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def instructions(name: str) -> list[str]:
    """The lines of a Dockerfile that do something."""
    lines = (line.strip() for line in (REPOSITORY / name).read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def locked(name: str) -> dict[str, str]:
    text = (REPOSITORY / "requirements" / name).read_text()
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE))


def test_the_image_for_gpus_differs_in_dependencies_environment_and_label_only() -> None:
    lines = difflib.ndiff(instructions("Dockerfile"), instructions("Dockerfile.gpu"))
    changes = [line for line in lines if line.startswith(("+ ", "- "))]
    interfaces = "A model server with TensorFlow Serving's interfaces"
    assert changes == [
        "- COPY requirements/image.lock /tmp/image.lock",
        "+ COPY requirements/gpu.lock /tmp/gpu.lock",
        *_replaced("pip --python /opt/ferry/bin/python install --no-deps --require-hashes --no-compile -r "),
        "+ ENV NVIDIA_VISIBLE_DEVICES=all \\",
        "+ NVIDIA_DRIVER_CAPABILITIES=compute,utility \\",
        "+ FERRY_REQUIRE_GPU=1",
        f'- org.opencontainers.image.description="{interfaces}" \\',
        f'+ org.opencontainers.image.description="{interfaces}, for NVIDIA GPUs" \\',
    ]


def _replaced(install: str) -> tuple[str, str]:
    return f"- {install}/tmp/image.lock", f"+ {install}/tmp/gpu.lock"


def test_the_locks_differ_in_tensorflow_and_cuda_only() -> None:
    image, gpu = locked("image.lock"), locked("gpu.lock")
    assert image.pop("tensorflow-cpu") == gpu.pop("tensorflow")
    cuda = {name for name in gpu if name.startswith("nvidia-")}
    assert {"nvidia-cudnn-cu12", "nvidia-cublas-cu12", "nvidia-cuda-runtime-cu12"} <= cuda
    assert {name: text for name, text in gpu.items() if name not in cuda} == image


def test_everything_that_is_copied_is_in_the_build_context() -> None:
    ignore = (REPOSITORY / ".dockerignore").read_text().split()
    allowed = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    for name in ("Dockerfile", "Dockerfile.gpu"):
        for line in instructions(name):
            words = line.split()
            if words[0] == "COPY" and not words[1].startswith("--from"):
                assert set(words[1:-1]) <= allowed, line
