"""The report of known vulnerabilities, asked of a server in the place of OSV's."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "audit.py"


class Osv(BaseHTTPRequestHandler):
    """Knows one vulnerability of `six`, and none of anything else."""

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = {}
        if question["package"]["name"] == "six":
            ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.9"}]}]
            package = {"name": "six", "ecosystem": "PyPI"}
            answer["vulns"] = [
                {
                    "id": "PYSEC-1",
                    "aliases": ["CVE-1"],
                    "summary": "bad",
                    "published": "2026-01-01T00:00:00Z",
                    "affected": [{"package": package, "ranges": ranges}],
                }
            ]
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Osv) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


def audit(tmp_path: Path, url: str, *names: str) -> tuple[int, str]:
    """Exit status and output for a lock of `names`."""
    lock = tmp_path / "some.lock"
    lock.write_text("".join(f"{name}==1.0 \\\n    --hash=sha256:{'ab' * 32}\n" for name in names))
    command = [sys.executable, str(SCRIPT), "--osv-url", url, str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


def test_what_is_known_is_reported(tmp_path: Path, url: str) -> None:
    status, report = audit(tmp_path, url, "six", "idna")
    assert status == 1
    assert "some.lock: six==1.0: PYSEC-1, CVE-1; fixed in: 9.9\n" in report
    assert "some.lock: 2 packages looked up, 1 with known vulnerabilities\n" in report


def test_nothing_known_is_a_success(tmp_path: Path, url: str) -> None:
    expected = "some.lock: 1 packages looked up, 0 with known vulnerabilities\n"
    assert audit(tmp_path, url, "idna") == (0, expected)


def test_without_an_answer_the_packages_are_listed_as_not_looked_up(tmp_path: Path) -> None:
    status, report = audit(tmp_path, "http://127.0.0.1:9/", "six", "idna")
    assert status == 2
    assert "some.lock: osv did not answer: " in report
    assert report.endswith("some.lock: 2 not looked up:\n  six==1.0\n  idna==1.0\n")
