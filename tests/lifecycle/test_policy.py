from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.lifecycle.policy import Load, Unload, VersionView, next_action
from app.lifecycle.states import State


def view(version: int, state: State, aspired: bool = True) -> VersionView:
    return VersionView(version, state, aspired)


def test_a_new_version_is_loaded_before_the_old_one_is_unloaded() -> None:
    old = view(1, State.AVAILABLE, aspired=False)
    assert next_action([old, view(2, State.START)]) == Load(2)
    assert next_action([old, view(2, State.LOADING)]) is None
    assert next_action([old, view(2, State.AVAILABLE)]) == Unload(1)


def test_a_version_that_failed_does_not_cost_the_one_that_serves() -> None:
    assert next_action([view(1, State.AVAILABLE, aspired=False), view(2, State.END)]) is None


def test_nothing_wanted_unloads_everything_lowest_first() -> None:
    versions = [view(2, State.AVAILABLE, aspired=False), view(1, State.AVAILABLE, aspired=False)]
    assert next_action(versions) == Unload(1)


def test_of_two_unwanted_versions_the_lower_goes_even_if_nothing_replaces_it_yet() -> None:
    versions = [
        view(1, State.AVAILABLE, aspired=False),
        view(2, State.AVAILABLE, aspired=False),
        view(3, State.LOADING),
    ]
    assert next_action(versions) == Unload(1)


def test_a_version_replaces_another_once_every_process_has_it() -> None:
    old, elsewhere = view(1, State.AVAILABLE, aspired=False), VersionView(2, State.AVAILABLE, True, False)
    assert next_action([old, elsewhere]) is None
    assert next_action([old, view(2, State.AVAILABLE)]) == Unload(1)
    unwanted = VersionView(2, State.AVAILABLE, False, False)
    assert next_action([old, unwanted, view(3, State.LOADING)]) == Unload(2), "what not all have goes first"


def test_the_highest_wanted_version_loads_first() -> None:
    assert next_action([view(1, State.START), view(2, State.START)]) == Load(2)


views = st.lists(
    st.builds(VersionView, st.integers(1, 9), st.sampled_from(State), st.booleans()),
    unique_by=lambda item: item.version,
)


@given(views)
def test_an_action_never_takes_the_last_good_version_while_another_is_wanted(
    versions: list[VersionView],
) -> None:
    action = next_action(versions)
    by_number = {item.version: item for item in versions}
    if isinstance(action, Load):
        assert by_number[action.version] == view(action.version, State.START)
    if isinstance(action, Unload):
        gone = by_number[action.version]
        assert (gone.state, gone.aspired) == (State.AVAILABLE, False)
        left = [item for item in versions if item.state is State.AVAILABLE and item != gone]
        assert left or not any(item.aspired for item in versions)
