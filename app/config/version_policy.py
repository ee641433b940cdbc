"""Which of a model's versions on disk are wanted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions on disk are wanted.

    Attributes:
        latest: this many of the highest; None for no such bound.
        specific: only these; None for any.
    """

    latest: int | None = 1
    specific: frozenset[int] | None = None

    def select(self, versions: Iterable[int]) -> set[int]:
        """The versions that are wanted."""
        if self.specific is not None:
            return set(versions) & self.specific
        return set(versions) if self.latest is None else set(sorted(versions)[-self.latest :])
