from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from app.errors import Code
from app.telemetry.access_log import AccessLog, address, fields
from app.telemetry.observation import Observation


def rest(path: str, status: int = 200) -> Observation:
    seen = Observation("REST", "POST", path, peer="10.0.0.1:9")
    seen.answered(Code.OK if status == 200 else Code.NOT_FOUND, status)
    seen.request_bytes, seen.response_bytes = 3, 4
    seen.ended = seen.began + 1_234_567
    return seen


def written(
    caplog: pytest.LogCaptureFixture, *observations: Observation, errors_only: bool = False
) -> list[str]:
    with caplog.at_level(logging.INFO, "app"):
        for seen in observations:
            AccessLog(errors_only=errors_only).write(seen)
    return [record.getMessage() for record in caplog.records]


def test_a_line_says_what_is_known(caplog: pytest.LogCaptureFixture) -> None:
    seen = rest("/v1/models/m:predict")
    seen.asked_for("m", "")
    seen.served_by(3)
    call = Observation("GRPC", "POST", "/a.B/C", peer="ipv6:%5B::1%5D:7")
    call.answered(Code.NOT_FOUND)
    call.ended = call.began
    assert written(caplog, seen, call) == [
        "access protocol=REST method=POST path=/v1/models/m:predict model=m version=3 "
        "signature=serving_default code=200 latency_ms=1.235 request_bytes=3 response_bytes=4 "
        "peer=10.0.0.1:9",
        "access protocol=GRPC path=/a.B/C code=NOT_FOUND latency_ms=0.0 request_bytes=0 response_bytes=0 "
        "peer=[::1]:7",
    ]
    assert vars(caplog.records[0])["version"] == 3  # a field of its own in JSON


def test_the_fields_are_those_of_the_documentation() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
    table = text.partition("### Access log")[2].partition("\n### ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    seen = rest("/v1/models/m:predict")
    seen.asked_for("m", "")
    seen.served_by(3)
    seen.trace_id = "a" * 32
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(fields(seen))


def test_no_client_can_write_lines_or_fields_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = written(caplog, rest('/v1/models/x code=0\nI am "new"\udcff'))
    assert r'path="/v1/models/x code=0\nI am \"new\"\\udcff" code=200' in line
    assert "\n" not in line


def test_only_errors(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = written(caplog, rest("/a"), rest("/b", 404), errors_only=True)
    assert "path=/b code=404" in line


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        ("ipv4:10.0.0.1:5", "10.0.0.1:5"),
        ("ipv6:%5B::1%5D:5", "[::1]:5"),
        ("unix:", "unix"),
        ("unix:/run/x", "unix"),
        ("10.0.0.1:5", "10.0.0.1:5"),
        ("", ""),
    ],
)
def test_peers(peer: str, text: str) -> None:
    assert address(peer) == text
