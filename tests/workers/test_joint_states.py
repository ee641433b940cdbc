from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Code, ServingError
from app.lifecycle.states import State, VersionStatus
from app.workers.joint_states import joint_statuses

START, LOADING, AVAILABLE, UNLOADING, END = State
FAILED = VersionStatus(1, END, ServingError(Code.INTERNAL, "no memory"))
UNKNOWN = None


def joint(*found: State | VersionStatus | None) -> VersionStatus | None:
    """What workers with these states of version 1 say together."""
    statuses = [VersionStatus(1, each) if isinstance(each, State) else each for each in found]
    workers = [{"m": {1: status}} if status is not None else {} for status in statuses]
    return joint_statuses(workers).get("m", {}).get(1)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((AVAILABLE,), AVAILABLE),
        ((AVAILABLE, AVAILABLE), AVAILABLE),
        ((AVAILABLE, LOADING), LOADING),
        ((AVAILABLE, START), LOADING),
        ((AVAILABLE, UNKNOWN), LOADING),
        ((START, UNKNOWN), START),
        ((START, LOADING), LOADING),
        ((AVAILABLE, UNLOADING), UNLOADING),
        ((AVAILABLE, END), UNLOADING),
        ((UNLOADING, END), UNLOADING),
        ((END, UNKNOWN), END),
        ((FAILED, LOADING), LOADING),
    ],
)
def test_the_one_that_is_behind_or_ahead_decides(
    found: tuple[State | VersionStatus | None, ...], expected: State
) -> None:
    status = joint(*found)
    assert status is not None
    assert status.state is expected


def test_a_load_that_failed_in_one_worker_failed() -> None:
    assert joint(AVAILABLE, FAILED) == FAILED
    assert joint(END, FAILED) == FAILED


@given(st.lists(st.sampled_from([*State, None]), min_size=1, max_size=5), st.randoms())
def test_available_is_only_what_all_have_and_the_order_does_not_matter(
    found: list[State | None], random: object
) -> None:
    status = joint(*found)
    assert (status is not None and status.state is AVAILABLE) == (set(found) == {AVAILABLE})
    mixed = list(found)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert joint(*mixed) == status
