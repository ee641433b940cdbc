"""`ferry`: hands `serve` to the server itself, and everything else to the command line of the tools."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; the process's own if None.

    Returns:
        The exit status.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["serve"]:  # before the tools: the server needs none of their packages
        from app.__main__ import main as serve

        return serve(given[1:], "ferry serve")
    from app.tools.cli import run

    return run(given)


if __name__ == "__main__":
    sys.exit(main())
