"""The image, built once for all of these tests, and the sample model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.container.containers import MODEL, build, make_readable
from tests.container.stacks import Images, find_images
from tests.support.process import REPOSITORY


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    """The Docker Engine."""
    engine = docker.from_env()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def base_image() -> str:
    """What the image is built upon: BASE_IMAGE from the environment, or the Dockerfile's default."""
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    (default,) = (line for line in lines if line.startswith("ARG BASE_IMAGE="))
    return os.environ.get("BASE_IMAGE") or default.partition("=")[2]


@pytest.fixture(scope="session")
def image(base_image: str) -> str:
    """The image to test: FERRY_TEST_IMAGE if set, or else built from this checkout."""
    if ready := os.environ.get("FERRY_TEST_IMAGE"):
        return ready
    return build("ferry:test", base_image, REPOSITORY / "Dockerfile")


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base path of half_plus_two, as users build it, readable for everyone."""
    out = tmp_path_factory.mktemp("sample")
    script = REPOSITORY / "models-sample" / "build.py"
    subprocess.run([sys.executable, str(script), f"--out={out}", MODEL], check=True)
    return make_readable(out / MODEL)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of all sample models, as `make samples` builds them, readable for everyone."""
    names = ["half_plus_two", "image_classifier", "text_classifier"]
    script = REPOSITORY / "models-sample" / "build.py"
    subprocess.run([sys.executable, str(script), *names], check=True)
    out = tmp_path_factory.mktemp("samples")
    for name in names:
        shutil.copytree(script.parent / name, out / name)
    return make_readable(out)


@pytest.fixture(scope="session")
def images(client: docker.DockerClient, image: str, base_image: str) -> Images:
    """Finds the images of a stack."""
    return lambda stack: find_images(client, image, base_image, stack)
