"""What the image's list of contents is made of, on directories that look like an image."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "image_sbom.py"

STATUS = """Package: zlib1g
Status: install ok installed
Architecture: amd64
Source: zlib (1:1.2.13.dfsg-1)
Version: 1:1.2.13.dfsg-1
Description: compression library
 with a second line: of text

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2+b6
"""
COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: someone
License: GPL-3+

Files: lib/*
License: Expat

License: GPL-3+
 The text.
"""


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("image_sbom", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    for name, text in {
        "etc/os-release": 'PRETTY_NAME="Debian"\nVERSION_ID="12"\nID=debian\n',
        "var/lib/dpkg/status": STATUS,
        "usr/share/doc/bash/copyright": COPYRIGHT,
        "usr/share/doc/zlib1g/copyright": "In words. License: see below",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def distribution(site: Path, name: str, version: str, metadata: str, **files: str) -> None:
    """What an installed package leaves in site-packages."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    text = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{metadata}"
    (info / "METADATA").write_text(text)
    for file, content in files.items():
        (info / file).write_text(content)
    (info / "RECORD").write_text("".join(f"{info.name}/{file},,\n" for file in ["METADATA", *files]))


@pytest.mark.parametrize(
    ("words", "entry"),
    [
        ("MIT", {"id": "MIT"}),
        ("mit", {"id": "MIT"}),
        ("Expat", {"id": "MIT"}),
        ("GPL-2+", {"id": "GPL-2.0-or-later"}),
        ("LGPL-2.1", {"id": "LGPL-2.1-only"}),
        ("GPL-3.0+", {"id": "GPL-3.0-or-later"}),
        ("License :: OSI Approved :: Apache Software License", {"id": "Apache-2.0"}),
        # Which of several, the words do not say.
        ("License :: OSI Approved :: BSD License", {"name": "BSD License"}),
        ("GPL-2+ or Artistic", {"name": "GPL-2+ or Artistic"}),
    ],
)
def test_a_licence_has_its_id_where_the_words_mean_one(
    sbom: ModuleType, words: str, entry: dict[str, str]
) -> None:
    assert sbom.license_entry(words) == {"license": entry}


def test_debians_packages_are_listed_in_order_with_their_licences(sbom: ModuleType, debian: Path) -> None:
    bash, zlib = sbom.debian_packages(debian)
    assert bash["purl"] == "pkg:deb/debian/bash@5.2%2Bb6?arch=amd64&distro=debian-12"
    assert bash["licenses"] == [{"license": {"id": "MIT"}}, {"license": {"id": "GPL-3.0-or-later"}}]
    assert (zlib["name"], zlib["version"]) == ("zlib1g", "1:1.2.13.dfsg-1")
    # Not machine-readable, and so nothing is claimed.
    assert "licenses" not in zlib


def test_an_interpreter_that_is_no_package_of_debian_is_listed(sbom: ModuleType) -> None:
    (python,) = sbom.interpreter(Path("/usr/local/bin/python3.11"), "3.11.9")
    assert (python["name"], python["version"]) == ("cpython", "3.11.9")
    assert list(sbom.interpreter(Path("/usr/bin/python3.11"), "3.11.9")) == []


def test_packages_that_the_base_image_brings_are_listed(sbom: ModuleType, tmp_path: Path) -> None:
    distribution(tmp_path, "wheel", "0.45", "License-Expression: MIT\n")
    distribution(tmp_path, "pip", "24.0", "License: MIT\n")
    assert [each["purl"] for each in sbom.packages_of_base(tmp_path)] == [
        "pkg:pypi/pip@24.0",
        "pkg:pypi/wheel@0.45",
    ]


def document(sbom: ModuleType, debian: Path, site: Path) -> dict[str, Any]:
    """The whole list for two packages, as the script makes it of what cyclonedx-py says."""
    components: list[dict[str, Any]] = [
        {
            "type": "library",
            "bom-ref": "ferry-model-server==1.2.3",
            "name": "ferry-model-server",
            "version": "1.2.3",
            "externalReferences": [{"type": "distribution", "url": "file:///src"}],
        },
        {"type": "library", "bom-ref": "Some_Thing==2", "name": "Some_Thing", "version": "2"},
    ]
    found: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": "2026-01-01T00:00:00+00:00"},
        "components": components,
        "dependencies": [{"ref": each["bom-ref"]} for each in components],
    }
    archive = {"archive_info": {"hashes": {"sha256": "ab" * 32}}}
    report = {"install": [{"metadata": {"name": "some-thing"}, "download_info": archive}]}
    sbom.python_packages(found, site, report)
    sbom.complete(found, sbom.debian_packages(debian), "arm64")
    return found


def test_the_whole_is_valid_complete_and_the_same_each_time(sbom: ModuleType, debian: Path) -> None:
    site = debian / "site"
    distribution(site, "Some_Thing", "2", "License: 3-Clause BSD License\n")
    first, second = (document(sbom, debian, site) for _ in range(2))
    assert first == second
    validator = make_schemabased_validator(OutputFormat.JSON, SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(first)) is None
    server, thing = first["components"][:2]
    assert "externalReferences" not in server
    assert server["purl"] == "pkg:pypi/ferry-model-server@1.2.3"
    assert thing["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert thing["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    assert first["metadata"]["component"]["version"] == "1.2.3"
    (image,) = (entry for entry in first["dependencies"] if entry["ref"] == "image")
    assert image["dependsOn"] == ["ferry-model-server==1.2.3", "deb:bash:amd64", "deb:zlib1g:amd64"]
    first["components"].pop()
    sbom.complete(first, [], "arm64")
    assert first["serialNumber"] != second["serialNumber"]


def test_the_page_of_licences_has_each_text_once(sbom: ModuleType, tmp_path: Path) -> None:
    distribution(tmp_path, "one", "1", "", LICENSE="Do what you like.\n")
    distribution(tmp_path, "two", "2", "", COPYING="Do what you like.\n", NOTICE="Ours.\n", **{"a.py": "x"})
    components = [{"name": "one", "version": "1", "licenses": [{"expression": "MIT OR 0BSD"}]}]
    page = sbom.licenses_page([*components, {"name": "deb", "version": "3"}], tmp_path)
    assert "one 1: MIT OR 0BSD\ndeb 3: not declared\n" in page
    assert page.count("Do what you like.") == 1
    assert "one 1, two 2" in page
    assert "Ours." in page


def test_it_needs_the_standard_library_and_one_package(sbom: ModuleType) -> None:
    # The stage of the build that runs it has what requirements/sbom.lock has.
    names = {name.partition(".")[0] for name in vars(sbom) if isinstance(getattr(sbom, name), ModuleType)}
    assert names <= sys.stdlib_module_names
