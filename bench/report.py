"""The report of one run: ratios only, beside what is aimed at; as Markdown and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

HEAD = """# What a request costs

Written by `make bench`. The unit is the CPU time (user and system, all processes) that a bare grpcio server
needs to answer fixed bytes under the like gRPC load, measured in turn with the rest: 1 float over 8
connections with 4 calls each for what is small, 600 KB over 8 connections for what is large. So 0.5 is half
the CPU time of a gRPC server in Python that does nothing. Each ratio is the median of the rounds' ratios.
Every gRPC answer is checked; of REST answers one a round in full, the others by status and length.

| Load | Ratio | Target | Stretch | TensorFlow Serving |
|---|---|---|---|---|
"""
TAIL = """
![The same as bars](report.svg)

The call path's unit is `Model.run`. Indented lines are baselines: what falcon costs that reads the body and
answers fixed bytes, and TensorFlow's callable in a loop. "TensorFlow Serving" is its C++ server, measured
once with the same loads on one machine. Ratios of one machine are not those of another: what is given is
what the last run found.

What versions and swaps cost: [lifecycle.md](lifecycle.md).
"""
_WIDTH, _LINE, _LEFT, _BAR = 900, 26, 470, 360


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Attributes:
        name: of the load; a baseline's begins with blanks.
        ratio: to the unit.
        target: what the ratio should not exceed.
        stretch: what would be better still.
        reference: TensorFlow Serving's ratio, or a range.
    """

    name: str
    ratio: float
    target: float | None = None
    stretch: float | None = None
    reference: str = ""


def write(rows: Sequence[Row], directory: Path) -> None:
    """Write report.md and report.svg."""
    lines = [
        f"| {row.name.replace('  ', '&emsp;')} | {row.ratio:.3g} | {_number(row.target)} | "
        f"{_number(row.stretch)} | {row.reference or '-'} |\n"
        for row in rows
    ]
    (directory / "report.md").write_text(HEAD + "".join(lines) + TAIL)
    (directory / "report.svg").write_text(_plot([row for row in rows if row.target is not None]))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _plot(rows: Sequence[Row]) -> str:
    """Each ratio as a part of its target, which is the line."""
    height = _LINE * (len(rows) + 2)
    target = _LEFT + _BAR * 0.6
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    for position, row in enumerate(rows):
        assert row.target is not None
        y = _LINE * (position + 0.5)
        length = min(row.ratio / row.target, 1.6) * _BAR * 0.6
        colour = "#2a7f62" if row.ratio <= row.target else "#b5532a"
        parts += [
            f'<text x="10" y="{y + 15:.0f}">{escape(row.name)}</text>',
            f'<rect x="{_LEFT}" y="{y + 3:.0f}" width="{length:.0f}" height="16" fill="{colour}"/>',
            f'<text x="{_LEFT + length + 6:.0f}" y="{y + 15:.0f}">{row.ratio:.3g}</text>',
        ]
        if row.stretch is not None:
            x = _LEFT + row.stretch / row.target * _BAR * 0.6
            parts.append(
                f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{y + 1:.0f}" y2="{y + 21:.0f}" stroke="#555" '
                'stroke-dasharray="2 2"/>'
            )
    bottom = height - _LINE
    parts += [
        f'<line x1="{target:.0f}" x2="{target:.0f}" y1="6" y2="{bottom}" stroke="black"/>',
        f'<text x="{target - 60:.0f}" y="{bottom + 15}">target; dotted: stretch</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"
