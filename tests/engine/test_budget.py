from __future__ import annotations

import pytest

from app.engine.budget import LEAST_SECONDS, Budget, KeepOriginalError


def test_a_step_may_begin_if_its_time_is_left() -> None:
    now = 100.0
    budget = Budget(2.0, lambda: now)
    budget.check("rewrite", 2.0)
    with pytest.raises(KeepOriginalError, match=r"no time to rewrite: .* 2\.10 s, and 2\.00 s of 2\.00 s"):
        budget.check("rewrite", 2.1)
    now = 101.5
    assert budget.left() == 0.5
    budget.check("measure", 0.5)
    now = 103.0
    with pytest.raises(KeepOriginalError, match=r"0\.00 s of 2\.00 s are left"):
        budget.check("measure", 0.0)


def test_quick_loads_have_some_time_too() -> None:
    assert Budget(0.0, lambda: 0.0).left() == LEAST_SECONDS
