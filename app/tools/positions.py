"""Where the fields of a text proto stand, for errors that are found after it was parsed."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

_TOKEN = re.compile(
    r"""\#[^\n]* | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | [{}<>\[\]:;,] | [^\s{}<>\[\]:;,"'\#]+""",
    re.VERBOSE,
)


class Position(NamedTuple):
    """Where a field stands, both from 1, and the text of its value; empty for a message."""

    line: int
    column: int
    text: str


Path = tuple[str, ...]
"""Names of fields from the outside in, each with its number among those of that name: `config[2]`."""


@dataclass
class _Level:
    """The message that is being read: where it stands, and the field in it that is."""

    path: Path = ()
    seen: Counter[str] = field(default_factory=Counter)
    name: str = ""
    start: int = 0
    in_value: bool = False
    in_list: bool = False

    def next_path(self) -> Path:
        number = self.seen[self.name]
        self.seen[self.name] += 1
        return (*self.path, f"{self.name}[{number}]")


def positions(text: str) -> dict[Path, Position]:  # noqa: C901 - a branch for each kind of token
    """The position of every field of a text proto that parses."""
    levels, found = [_Level()], dict[Path, tuple[int, str]]()
    for match in _TOKEN.finditer(text):
        mark, level = match.group(), levels[-1]
        if mark in ("{", "<"):
            path = level.next_path()
            found[path] = (match.start() if level.in_list else level.start), ""
            levels.append(_Level(path))
        elif mark in ("}", ">"):
            if len(levels) > 1:
                levels.pop()
            levels[-1].in_value = levels[-1].in_list
        elif mark == ":":
            level.in_value = True
        elif mark == "[":
            level.in_list = level.in_value = True
        elif mark == "]":
            level.in_list = level.in_value = False
        elif mark in (",", ";") or mark.startswith("#"):
            continue
        elif level.in_value:
            found[level.next_path()] = (match.start() if level.in_list else level.start), mark
            level.in_value = level.in_list
        elif mark[0] not in "\"'":  # the second part of a string in parts belongs to the first
            level.name, level.start = mark, match.start()
    return {path: _position(text, offset, value) for path, (offset, value) in found.items()}


def _position(text: str, offset: int, value: str) -> Position:
    return Position(text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset), value)
