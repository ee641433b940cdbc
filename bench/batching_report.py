"""The table of bench/batching.md: one line for each model and load, kept until it is measured again."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HEADER = """\
# Adaptive batching beside the best parameters by hand

Written by `bench/batching.py`, one line for each model and number of clients. "By hand" is the parameter
file that was best for that very load: sizes, threads, with and without a timeout. Half of the rounds choose
it and the other half, in which all ways take turns, is compared, so that neither side profits from luck.

Each ratio is adaptive batching's figure over that of the other way: the median of the rounds, and in brackets
the lowest and the highest. Rates are better above 1, the 99th percentile of the latency (p99) below 1.
Clients are threads that call the model, each again and again; they share the CPUs with it. What clients of a
complete server see is in [batching_served.md](batching_served.md).

| Model | Clients | By hand | Rate / hand | p99 / hand | Rate / unbatched | p99 / unbatched | Rows a batch |
|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Ratio:
    """The ratios of several rounds."""

    median: float
    lowest: float
    highest: float

    @staticmethod
    def of(values: Sequence[float], others: Sequence[float]) -> Ratio:
        """Round by round, `values` over `others`."""
        ratios = [value / other for value, other in zip(values, others, strict=True)]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        """As it stands in the table."""
        return f"{self.median:.2f} ({self.lowest:.2f}-{self.highest:.2f})"


@dataclass(frozen=True)
class Line:
    """What was found for one model and load. `rows_a_batch` is 0 where nothing was batched."""

    model: str
    clients: int
    by_hand: str
    rate_by_hand: Ratio
    p99_by_hand: Ratio
    rate_unbatched: Ratio
    p99_unbatched: Ratio
    rows_a_batch: float

    @property
    def text(self) -> str:
        """The line of the table."""
        rows = f"{self.rows_a_batch:.1f}" if self.rows_a_batch else "none"
        cells = (
            self.model,
            self.clients,
            self.by_hand,
            self.rate_by_hand,
            self.p99_by_hand,
            self.rate_unbatched,
            self.p99_unbatched,
            rows,
        )
        return f"| {' | '.join(map(str, cells))} |"


def merge_into(report: Path, header: str, rows: Sequence[str], models: Sequence[str]) -> None:
    """Put `rows` in the place of older ones in the table of `report`, which is sorted by `models`.

    What stands below the table stays.

    Args:
        report: a file, which need not be there.
        header: what stands above the first row.
        rows: each begins with the model and the number of clients.
        models: their order.
    """
    table, after = {}, ""
    if report.exists():
        ruler = header.splitlines()[-1]
        _, _, rest = report.read_text(encoding="utf-8").partition(f"{ruler}\n")
        old, _, after = rest.partition("\n\n")
        table = {_key(row): row for row in old.splitlines()}
    table |= {_key(row): row for row in rows}
    order = sorted(table, key=lambda key: (models.index(key[0]), key[1]))
    text = header + "\n".join(table[key] for key in order) + "\n"
    report.write_text(text + (f"\n{after}" if after.strip() else ""), encoding="utf-8")


def _key(row: str) -> tuple[str, int]:
    _, model, clients, *_ = (cell.strip() for cell in row.split("|"))
    return model, int(clients)
