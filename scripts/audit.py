"""Reports known vulnerabilities of locked packages: `python scripts/audit.py [--osv-url URL] [LOCK...]`.

pip-audit looks each package up at PyPI and, where PyPI does not know it or cannot be reached, at OSV; or only
at the copy of OSV that the URL names. Without a LOCK: all of requirements/. Exit status: 0 if all packages
are known to have none, 1 if some have any, 2 if none was found but not all could be looked up; the report
lists those.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
PYPI = ("-s", "pypi")
OSV = ("-s", "osv")


def look_up(lock: Path, service: tuple[str, ...]) -> list[dict[str, Any]]:
    """What a service knows of the packages of `lock`: pip-audit's entries, empty if it did not answer."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "-r", str(lock)]
    command += ["--format", "json", "--progress-spinner", "off", *service]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"{lock.name}: {service[1]} did not answer: {last[:200]}")
        return []
    return found


def locked(lock: Path) -> list[str]:
    """The packages of `lock`, as `name==version`."""
    lines = lock.read_text().splitlines()
    return [line.split()[0] for line in lines if line and line[0] not in " #"]


def audit(lock: Path, services: list[tuple[str, ...]]) -> int:
    """Report on one lock, to standard output; the exit status for it alone."""
    known: dict[str, dict[str, Any]] = {}
    for service in services:
        for entry in look_up(lock, service):
            if "skip_reason" not in entry:
                known[f"{entry['name']}=={entry['version']}"] = entry
        if set(locked(lock)) <= known.keys():
            break
    for name, entry in sorted(known.items()):
        for found in entry["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "none yet"
            print(f"{lock.name}: {name}: {', '.join([found['id'], *found['aliases']])}; fixed in: {fixed}")
    unknown = [name for name in locked(lock) if name not in known]
    vulnerable = sum(1 for entry in known.values() if entry["vulns"])
    print(f"{lock.name}: {len(known)} packages looked up, {vulnerable} with known vulnerabilities")
    if unknown:
        print(f"{lock.name}: {len(unknown)} not looked up:", *unknown, sep="\n  ")
    return 1 if vulnerable else 2 if unknown else 0


def main() -> int:
    """Report on the locks; the exit status."""
    parser = argparse.ArgumentParser(description="Reports known vulnerabilities of locked packages.")
    parser.add_argument("locks", metavar="LOCK", type=Path, nargs="*")
    parser.add_argument("--osv-url")
    arguments = parser.parse_args()
    services: list[tuple[str, ...]] = [PYPI, OSV]
    if arguments.osv_url:
        services = [(*OSV, "--osv-url", arguments.osv_url)]
    results = [audit(lock, services) for lock in arguments.locks or sorted(REQUIREMENTS.glob("*.lock"))]
    return 1 if 1 in results else max(results)


if __name__ == "__main__":
    sys.exit(main())
