"""Says what an image consists of: a CycloneDX document and the licences. Both Dockerfiles run it.

It runs in the image that it describes, as root. The Python packages, their licences and what needs what
come from `cyclonedx-py environment`; this adds the hashes of the archives that they were installed from, the
packages of Debian, and the interpreter where it is none of these. The same image gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.spdx import fixup_id
from cyclonedx.validation import make_schemabased_validator

Component = dict[str, Any]

# What packages call a licence in words, where the words mean one licence. "BSD License" does not.
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    # Debian's own word.
    "Expat": "MIT",
}
LICENSE_FILE = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|THIRD.?PARTY)[^/]*$", re.IGNORECASE)
FILES_OF_BASE = Path("/usr/local/lib/python3.11/site-packages")
"""Where the official Python image keeps packages of its own (pip), which no environment shows."""


def license_entry(name: str) -> dict[str, Any]:
    """The form of a licence in the document: its SPDX id where `name` means one, else `name` itself."""
    name = name.removeprefix("License :: OSI Approved :: ")
    if gnu := re.fullmatch(r"([AL]?GPL)-(\d)(\.\d)?(?:\.0)?(\+?)", name):
        family, major, minor, later = gnu.groups()
        name = f"{family}-{major}{minor or '.0'}-{'or-later' if later else 'only'}"
    spdx = SPDX.get(name) or fixup_id(name)
    return {"license": {"id": spdx} if spdx else {"name": name}}


def unique(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """`entries` without repeats, in order."""
    return list({json.dumps(entry, sort_keys=True): entry for entry in entries}.values())


def bare(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of a component's licences with its id, name or expression only."""
    if "expression" in entry:
        return {"expression": entry["expression"]}
    return {"license": {key: text for key, text in entry["license"].items() if key in {"id", "name"}}}


def license_names(component: Component) -> str:
    """The licences of `component` in one line."""
    entries = map(bare, component.get("licenses", []))
    names = (entry.get("expression") or "".join(entry["license"].values()) for entry in entries)
    return ", ".join(names) or "not declared"


def canonical(name: str) -> str:
    """A Python package's name as indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def python_packages(document: dict[str, Any], site: Path, installed: dict[str, Any]) -> None:
    """Complete what `cyclonedx-py` found: licences by id, and the SHA-256 of each package's archive.

    Args:
        document: its document, changed in place.
        site: the site-packages that it describes.
        installed: pip's report of the installation.
    """
    archives = {
        canonical(entry["metadata"]["name"]): entry["download_info"]["archive_info"]["hashes"]["sha256"]
        for entry in installed["install"]
    }
    declared = {canonical(found.name): found.metadata["License"] for found in distributions(path=[str(site)])}
    for component in document["components"]:
        name = canonical(component["name"])
        entries = component.get("licenses", [])
        if not entries and (words := declared.get(name)) and "\n" not in words:
            entries = [license_entry(words)]
        if entries:
            component["licenses"] = unique(
                license_entry(entry["license"]["name"]) if "name" in entry.get("license", {}) else entry
                for entry in map(bare, entries)
            )
        if name in archives:
            component["hashes"] = [{"alg": "SHA-256", "content": archives[name]}]


def packages_of_base(site: Path) -> Iterator[Component]:
    """The Python packages that the base image has beside the environment."""
    for found in sorted(distributions(path=[str(site)]), key=lambda found: canonical(found.name)):
        words = found.metadata["License-Expression"] or found.metadata["License"]
        yield {
            "type": "library",
            "bom-ref": f"base:{canonical(found.name)}=={found.version}",
            "name": found.name,
            "version": found.version,
            "purl": f"pkg:pypi/{canonical(found.name)}@{found.version}",
            **({"licenses": [license_entry(words)]} if words and "\n" not in words else {}),
        }


def interpreter(executable: Path, version: str) -> Iterator[Component]:
    """Python itself, where it was built for the image and so is no package of Debian."""
    if executable.is_relative_to("/usr/local"):
        yield {
            "type": "application",
            "bom-ref": f"cpython@{version}",
            "name": "cpython",
            "version": version,
            "cpe": f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*",
            "licenses": [{"license": {"id": "PSF-2.0"}}],
            "purl": f"pkg:generic/cpython@{version}",
        }


def fields(stanza: str) -> dict[str, str]:
    """The one-line fields of a stanza in Debian's control format."""
    return dict(re.findall(r"^([\w-]+): *(.*)$", stanza, re.MULTILINE))


def debian_packages(root: Path) -> Iterator[Component]:
    """The installed packages of the Debian at `root`, sorted; licences as far as their files can be read."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)', (root / "etc/os-release").read_text(), re.MULTILINE))
    stanzas = map(fields, (root / "var/lib/dpkg/status").read_text().split("\n\n"))
    packages = [stanza for stanza in stanzas if stanza.get("Status", "").endswith(" installed")]
    for package in sorted(packages, key=lambda package: (package["Package"], package["Architecture"])):
        name, version, arch = package["Package"], package["Version"], package["Architecture"]
        path = root / "usr/share/doc" / name / "copyright"
        text = path.read_text(errors="replace") if path.exists() else ""
        names = re.findall(r"^License: *(\S.*)$", text, re.MULTILINE) if "\nFiles:" in text else []
        purl = f"pkg:deb/{release['ID']}/{name}@{version.replace('+', '%2B').replace(':', '%3A')}"
        yield {
            "type": "library",
            "bom-ref": f"deb:{name}:{arch}",
            "name": name,
            "version": version,
            "purl": f"{purl}?arch={arch}&distro={release['ID']}-{release['VERSION_ID']}",
            **({"licenses": unique(map(license_entry, sorted(set(names))))} if names else {}),
        }


def license_texts(found: Distribution) -> Iterator[str]:
    """The texts of the files about licences that a Python package brought."""
    for file in sorted(found.files or []):
        path = Path(str(file.locate()))
        if LICENSE_FILE.search(str(file)) and path.suffix not in {".py", ".pyc"} and path.is_file():
            yield path.read_text(errors="replace").strip()


def licenses_page(components: list[Component], site: Path) -> str:
    """Every package with its licence, then each text once with the packages that brought it."""
    lines = [
        "What this image consists of, and under which licences. Texts of the Python packages follow below;",
        "those of Debian's packages are in /usr/share/doc/PACKAGE/copyright.",
        "",
        *(f"{each['name']} {each['version']}: {license_names(each)}" for each in components),
    ]
    bringers: dict[str, list[str]] = {}
    for found in sorted(distributions(path=[str(site)]), key=lambda found: canonical(found.name)):
        for text in dict.fromkeys(license_texts(found)):
            bringers.setdefault(text, []).append(f"{found.name} {found.version}")
    for text, names in bringers.items():
        lines += ["", "=" * 100, ", ".join(names), "=" * 100, "", text]
    return "\n".join(lines) + "\n"


def complete(document: dict[str, Any], others: Iterable[Component], arch: str) -> None:
    """Add the other components and the image, which all belong to; make a serial number of the content."""
    server = next(each for each in document["components"] if canonical(each["name"]) == "ferry-model-server")
    # It was installed from a directory of the build: where that was means nothing.
    server.pop("externalReferences", None)
    server["purl"] = f"pkg:pypi/ferry-model-server@{server['version']}"
    others = list(others)
    document["components"] += others
    document["metadata"]["component"] = {
        "type": "container",
        "bom-ref": "image",
        "name": "ferry",
        "version": server["version"],
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "properties": [{"name": "ferry:architecture", "value": arch}],
    }
    document["dependencies"] = [
        {"ref": "image", "dependsOn": [server["bom-ref"], *(each["bom-ref"] for each in others)]},
        *document["dependencies"],
        *({"ref": each["bom-ref"]} for each in others),
    ]
    content = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}"


def main() -> None:
    """Write `sbom.cdx.json` and `licenses.txt` into a directory that is made."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--python", required=True, help="the environment's interpreter")
    parser.add_argument(
        "--installed", type=Path, required=True, help="pip's report of what it installed there"
    )
    parser.add_argument("--arch", required=True, help="what the image is for, such as amd64")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--root", type=Path, default=Path("/"), help="of the Debian")
    arguments = parser.parse_args()

    ask = (
        "import os, platform, sys, sysconfig; print(sysconfig.get_path('purelib'), "
        "os.path.realpath(sys.executable), platform.python_version(), sep='\\n')"
    )
    answer = subprocess.run([arguments.python, "-c", ask], check=True, capture_output=True, text=True).stdout
    site, executable, version = answer.splitlines()
    tool = Path(sys.executable).with_name("cyclonedx-py")
    command = [tool, "environment", "--output-reproducible", "--no-validate", "-o", "-", arguments.python]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    document = json.loads(found)

    python_packages(document, Path(site), json.loads(arguments.installed.read_text()))
    others = [
        *interpreter(Path(executable), version),
        *packages_of_base(FILES_OF_BASE),
        *debian_packages(arguments.root),
    ]
    complete(document, others, arguments.arch)
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    validator = make_schemabased_validator(
        OutputFormat.JSON, SchemaVersion.from_version(document["specVersion"])
    )
    if wrong := validator.validate_str(text):
        sys.exit(f"image_sbom: the document is not valid CycloneDX: {wrong}")
    arguments.out.mkdir(parents=True)
    (arguments.out / "sbom.cdx.json").write_text(text)
    (arguments.out / "licenses.txt").write_text(licenses_page(document["components"], Path(site)))


if __name__ == "__main__":
    main()
