"""How long making a model fast may take."""

from __future__ import annotations

import time
from collections.abc import Callable

# What a load that takes no time at all may take more.
LEAST_SECONDS = 0.3


class KeepOriginalError(Exception):
    """The original stays; says why."""


class Budget:
    """The seconds that there are; every step asks before it begins."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin now, with `seconds` or LEAST_SECONDS, whichever is more."""
        self.seconds = max(seconds, LEAST_SECONDS)
        self._clock = clock
        self._end = clock() + self.seconds

    def left(self) -> float:
        """The seconds that are left; negative when they are over."""
        return self._end - self._clock()

    def check(self, step: str, seconds: float) -> None:
        """Ask for a step that will take about `seconds`.

        Raises:
            KeepOriginalError: so much is not left.
        """
        if self.left() < seconds:
            raise KeepOriginalError(
                f"no time to {step}: that takes some {seconds:.2f} s, and {max(0.0, self.left()):.2f} s of "
                f"{self.seconds:.2f} s are left"
            )
