"""Settings for all tests of this room."""

from __future__ import annotations

import pytest

from app.lifecycle.storage import LocalStorage


@pytest.fixture(autouse=True)
def quick_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories count as complete soon after their last change: in a second, tests would only wait."""
    monkeypatch.setattr(LocalStorage.__init__, "__defaults__", (0.05,))
    monkeypatch.setattr(LocalStorage, "look_again_seconds", 0.05)
