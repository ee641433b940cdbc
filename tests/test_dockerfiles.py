"""The two Dockerfiles are one but for what a GPU needs; the image's locks are one but for TensorFlow."""

from __future__ import annotations

import difflib
import re
import subprocess
from pathlib import Path

import pytest

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
        "- COPY requirements/image.${TARGETARCH}.lock /tmp/locked",
        "+ COPY requirements/gpu.lock /tmp/locked",
        "+ ENV NVIDIA_VISIBLE_DEVICES=all \\",
        "+ NVIDIA_DRIVER_CAPABILITIES=compute,utility \\",
        "+ FERRY_REQUIRE_GPU=1",
        f'- org.opencontainers.image.description="{interfaces}" \\',
        f'+ org.opencontainers.image.description="{interfaces}, for NVIDIA GPUs" \\',
    ]


def test_the_locks_differ_in_tensorflow_and_cuda_only() -> None:
    image, gpu = locked("image.amd64.lock"), locked("gpu.lock")
    assert image.pop("tensorflow-cpu") == gpu.pop("tensorflow")
    cuda = {name for name in gpu if name.startswith("nvidia-")}
    assert {"nvidia-cudnn-cu12", "nvidia-cublas-cu12", "nvidia-cuda-runtime-cu12"} <= cuda
    assert {name: text for name, text in gpu.items() if name not in cuda} == image


def test_the_lock_for_arm64_is_the_same_with_the_one_tensorflow_that_is_built_for_it() -> None:
    # `make lock` finds out that there is a wheel for each.
    amd64, arm64 = (
        (REPOSITORY / "requirements" / f"image.{arch}.lock").read_text() for arch in ("amd64", "arm64")
    )
    changes = [line for line in difflib.ndiff(amd64.splitlines(), arm64.splitlines()) if line[0] in "+-"]
    version = locked("image.amd64.lock")["tensorflow-cpu"]
    assert locked("image.arm64.lock")["tensorflow"] == version
    assert [line for line in changes if "--hash" not in line] == [
        f"- tensorflow-cpu=={version} \\",
        f"+ tensorflow=={version} \\",
    ]


@pytest.mark.parametrize("name", ["image.amd64", "image.arm64", "gpu", "sbom", "dev"])
def test_every_locked_package_has_hashes_and_no_condition(name: str) -> None:
    text = (REPOSITORY / "requirements" / f"{name}.lock").read_text()
    packages = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    for package in packages:
        # A condition could leave it out on the other architecture.
        assert re.match(r"[\w.-]+==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", package), package


@pytest.mark.parametrize("name", ["Dockerfile", "scripts/image-prune", "scripts/image-settle"])
def test_nothing_in_the_build_is_for_one_architecture(name: str) -> None:
    text = (REPOSITORY / name).read_text()
    assert not re.search(r"x86|amd64|arm64|aarch64", text)


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.gpu"])
def test_all_that_is_installed_is_locked_by_hash_and_a_wheel(name: str) -> None:
    text = (REPOSITORY / name).read_text().replace("\\\n", " ")
    installs = re.findall(r"pip --python .* install .*", text)
    ours = [line for line in installs if " --no-index " in line]
    assert len(ours) == 1
    assert all(
        {"--require-hashes", "--no-deps"} <= set(line.split()) for line in installs if line not in ours
    )
    assert all("--only-binary :all:" in line for line in installs if line not in ours)


def test_make_image_passes_on_what_a_build_is_told_by() -> None:
    digest = "sha256:" + "ab" * 32
    told = [f"BASE_IMAGE=python@{digest}", "PLATFORM=linux/arm64", "SOURCE=https://example.com/ferry"]
    command = ["make", "--dry-run", "image", *told, "SOURCE_DATE_EPOCH=1700000000"]
    printed = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    arguments = re.findall(r"--build-arg (\w+)=", printed)
    declared = re.findall(r"^ARG (\w+)", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    # BuildKit knows itself what it builds for.
    assert set(arguments) == set(declared) - {"TARGETARCH"}
    assert "--platform linux/arm64 " in printed
    assert f"BASE_DIGEST={digest} " in printed
    assert "SOURCE_DATE_EPOCH=1700000000 " in printed


def test_everything_that_is_copied_is_in_the_build_context() -> None:
    ignore = (REPOSITORY / ".dockerignore").read_text().split()
    allowed = {line.removeprefix("!").replace("*", "${TARGETARCH}") for line in ignore if line[0] == "!"}
    for name in ("Dockerfile", "Dockerfile.gpu"):
        for line in instructions(name):
            words = line.split()
            if words[0] == "COPY" and not words[1].startswith("--from"):
                assert set(words[1:-1]) <= allowed, line
