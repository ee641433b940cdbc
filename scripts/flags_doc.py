"""Writes docs/flags.md from the table of flags: `python scripts/flags_doc.py`."""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from app.command_line import default_text  # noqa: E402
from app.options import Support, flags  # noqa: E402

HEAD = """# Flags

Made by `python scripts/flags_doc.py` from `app/options.py`; do not edit.

Form: `--name=value` or `--name value`; a bool may stand alone. The last repeat wins. An unknown
argument is printed with the usage text and the server starts all the same; a value that its flag
cannot take ends the start with status 255.

A flag marked *no effect* is accepted and, if given another value than its default, named in a
warning at the start. A flag marked *refused* stops the start: leaving it out silently would do harm.

| Flag | Type | Default | Meaning |
|---|---|---|---|
"""


def render() -> str:
    """The whole page."""
    rows = []
    for flag in flags():
        meaning = flag.help
        if flag.support is not Support.ACTS:
            word = "no effect" if flag.support is Support.IGNORED else "refused"
            meaning += f" *{word}: {flag.reason}.*"
        # Defaults made from the number of CPUs differ from machine to machine.
        default = f"{flag.cpu_factor} x CPUs" if flag.cpu_factor else default_text(flag)
        rows.append(f"| `{flag.name}` | {flag.type} | `{default}` | {meaning} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    (REPOSITORY / "docs" / "flags.md").write_text(render())
