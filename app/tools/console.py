"""What all commands of `ferry` share: exit statuses and the terminal."""

from __future__ import annotations

from typing import Any

FAILED = 1
"""Something was found, or did not work."""
WRONG_USE = 2
"""The command line itself is wrong."""


def console(*, stderr: bool = False) -> Any:
    """A rich console that prints text as it is given."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)
