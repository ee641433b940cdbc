from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = r"""
import logging, os, warnings
from app.telemetry import logs
from app.telemetry.native_output import as_events
with as_events() as stream:
    logs.configure("json", stream)
    logging.getLogger("app").info("ours")
    os.write(2, b"E0000 00:00:1767225599.000042 17 file.cc:12] native\n\n")
    os.write(2, b"2026-01-01 00:00:00.000000: I a/b.cc:1] older\nplain \xff\n")
    warnings.warn("careful")
    if os.fork() == 0:
        os.write(2, b"F0000 00:00:1767225599.000042 17 file.cc:12] last words")
        os.abort()
    os.wait()
logging.getLogger("app").info("after")
os.write(2, b"as before\n")
"""


def test_what_others_write_becomes_events_even_if_they_die() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    *lines, last = done.stderr.splitlines()
    assert last == "as before"
    found = [json.loads(line) for line in lines]
    native = [(one["severity"], one["message"]) for one in found if "native_output" in one["module"]]
    assert native == [
        ("ERROR", "E0000 00:00:1767225599.000042 17 file.cc:12] native"),
        ("INFO", "2026-01-01 00:00:00.000000: I a/b.cc:1] older"),
        ("WARNING", "plain \\xff"),
        ("CRITICAL", "F0000 00:00:1767225599.000042 17 file.cc:12] last words"),
    ]
    assert [one["message"] for one in found if one["module"] == "app.py"] == ["ours", "after"]
    assert any("careful" in one["message"] and one["module"] == "py/warnings.py" for one in found)
