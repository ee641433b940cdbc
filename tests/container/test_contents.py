"""What the image says that it consists of, and whether another build of the same makes the same."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from typing import Any

import docker
import pytest
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator

from app import __version__
from tests.container.containers import BUILD_TIME, PYTHON, build, started
from tests.support.process import REPOSITORY

pytestmark = pytest.mark.container

DOCUMENTS = "/usr/share/doc/ferry"

# Prints as JSON what is in the image and what it says of that.
INVENTORY = rf"""
import importlib.metadata, json, pathlib, subprocess, sys
documents = pathlib.Path("{DOCUMENTS}")
debian = ["dpkg-query", "-W", "-f", "${{Package}} ${{Version}}\n"]
print(json.dumps({{
    "sbom": (documents / "sbom.cdx.json").read_text(),
    "licenses": (documents / "licenses.txt").read_text(),
    "python": sorted([d.name.lower().replace("_", "-"), d.version] for d in importlib.metadata.distributions(
        path=[str(pathlib.Path(sys.prefix, "lib/python3.11/site-packages"))])),
    "debian": subprocess.run(debian, check=True, capture_output=True, text=True).stdout.splitlines(),
    "license_files": [f.read_text() for d in importlib.metadata.distributions() for f in d.files or []
        if ".dist-info/" in str(f) and f.name == "LICENSE"],
}}))
"""


@pytest.fixture(scope="module")
def inventory(client: docker.DockerClient, image: str) -> dict[str, Any]:
    """What lies in the image, as any user finds it."""
    options: dict[str, Any] = {"entrypoint": [PYTHON], "ports": (), "user": "12345:12345", "read_only": True}
    with started(client, image, "-c", INVENTORY, **options) as server:
        assert server.wait_exit() == 0
        found: dict[str, Any] = json.loads(server.container.logs(stderr=False))
    return found


@pytest.fixture(scope="module")
def document(inventory: dict[str, Any]) -> dict[str, Any]:
    """The CycloneDX document."""
    found: dict[str, Any] = json.loads(inventory["sbom"])
    return found


def components(document: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Those of `document` with package URLs of `kind`."""
    return [each for each in document["components"] if each["purl"].startswith(f"pkg:{kind}/")]


def test_the_document_is_valid_cyclonedx(inventory: dict[str, Any], document: dict[str, Any]) -> None:
    schema = SchemaVersion.from_version(document["specVersion"])
    assert make_schemabased_validator(OutputFormat.JSON, schema).validate_str(inventory["sbom"]) is None
    told = datetime.fromisoformat(document["metadata"]["timestamp"])
    if "FERRY_TEST_IMAGE" not in os.environ:
        assert told == datetime.fromtimestamp(BUILD_TIME, UTC)
    assert document["metadata"]["component"]["name"] == "ferry"
    assert document["metadata"]["component"]["version"] == __version__


def test_it_lists_what_is_installed_and_nothing_else(
    inventory: dict[str, Any], document: dict[str, Any]
) -> None:
    python = [
        [each["name"].lower().replace("_", "-"), each["version"]] for each in components(document, "pypi")
    ]
    assert sorted(python) == inventory["python"]
    debian = [f"{each['name']} {each['version']}" for each in components(document, "deb")]
    assert sorted(debian) == sorted(inventory["debian"])
    others = [
        each["name"]
        for each in document["components"]
        if not each["purl"].startswith(("pkg:pypi", "pkg:deb"))
    ]
    # Python itself, where it is no package of Debian's.
    assert others in ([], ["cpython"])


def test_each_python_package_has_the_hash_of_a_locked_archive(document: dict[str, Any]) -> None:
    lock = (REPOSITORY / "requirements" / "image.amd64.lock").read_text()
    locked = {
        name: set(re.findall(r"sha256:(\w{64})", hashes))
        for name, hashes in re.findall(r"^([\w.-]+)==(.*(?:\n .*)*)", lock, re.MULTILINE)
    }
    for each in components(document, "pypi"):
        name = re.sub(r"[-_.]+", "-", each["name"]).lower()
        if name != "ferry-model-server":
            (found,) = each["hashes"]
            assert found["content"] in locked[name]


def test_everything_has_a_place_in_the_graph(document: dict[str, Any]) -> None:
    wanted = {entry["ref"]: set(entry.get("dependsOn", [])) for entry in document["dependencies"]}
    assert set(wanted) == {"image", *(each["bom-ref"] for each in document["components"])}
    assert set().union(*wanted.values()) <= set(wanted)
    server = f"ferry-model-server=={__version__}"
    assert server in wanted["image"]
    assert any(name.startswith("grpcio==") for name in wanted[server])


def test_licences_are_known_and_their_texts_are_there(
    inventory: dict[str, Any], document: dict[str, Any]
) -> None:
    named = [each for each in components(document, "pypi") if each.get("licenses")]
    assert len(named) >= len(components(document, "pypi")) - 2
    by_id = [
        each
        for each in named
        if any("expression" in one or "id" in one["license"] for one in each["licenses"])
    ]
    assert len(by_id) >= 0.8 * len(named)
    page = inventory["licenses"]
    for each in document["components"]:
        assert f"\n{each['name']} {each['version']}: " in page
    assert inventory["license_files"]
    assert all(text.strip() in page for text in inventory["license_files"])


@pytest.fixture(scope="module")
def rebuilt(
    image: str, base_image: str, document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The image, with Ferry and the documents made anew; `make reproducible` does it with all."""
    text = (REPOSITORY / "Dockerfile").read_text()
    again = f"\\1\nRUN : {image} {tmp_path_factory.getbasetemp()}"
    text, count = re.subn(r"^(FROM \S+ AS (?:ferry|sbom))$", again, text, flags=re.MULTILINE)
    assert count == 2
    dockerfile = tmp_path_factory.mktemp("rebuilt") / "Dockerfile"
    dockerfile.write_text(text)
    told = datetime.fromisoformat(document["metadata"]["timestamp"])
    return build("ferry:test-rebuilt", base_image, dockerfile, time=int(told.timestamp()))


def test_another_build_makes_the_same_layers(
    client: docker.DockerClient, image: str, rebuilt: str, base_image: str
) -> None:
    first, second, base = (
        client.images.get(name).attrs["RootFS"]["Layers"] for name in (image, rebuilt, base_image)
    )
    assert len(first) == len(base) + 3
    assert first == second


def test_its_files_have_one_time(client: docker.DockerClient, image: str) -> None:
    code = """
import pathlib, sys
roots = map(pathlib.Path, ("/opt", "/models", "/usr/share/doc/ferry", "/usr/bin/tensorflow_model_server"))
files = [path for root in roots for path in (root, *root.rglob("*"))]
print(*{int(path.lstat().st_mtime) for path in files}, any(path.suffix == ".pyc" for path in files))
"""
    with started(client, image, "-c", code, entrypoint=[PYTHON], ports=()) as server:
        assert server.wait_exit() == 0
        assert server.container.logs(stderr=False).decode().split() == ["315532800", "True"]


def test_no_caches_or_logs_came_with_it(client: docker.DockerClient, image: str, base_image: str) -> None:
    kept: list[set[str]] = []
    code = """
import os
for place in ("/var/lib/apt/lists", "/var/cache", "/var/log", "/root", "/tmp", "/src"):
    for directory, _, files in os.walk(place):
        print(*(os.path.join(directory, name) for name in files), sep="\\n")
"""
    for name in (image, base_image):
        with started(client, name, "-c", code, entrypoint=["python3"], ports=(), user="0") as server:
            assert server.wait_exit() == 0
            kept.append(set(server.container.logs(stderr=False).decode().split()))
    assert kept[0] <= kept[1]
