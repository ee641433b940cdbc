from __future__ import annotations

import pytest
from google.protobuf import text_format

from app.api.model_status import get_model_status
from app.api.models import ModelSpec
from app.errors import Code, ServingError
from app.lifecycle.states import State, StateBoard, VersionStatus


@pytest.fixture
def board() -> StateBoard:
    board = StateBoard()
    board.publish("m", VersionStatus(1, State.END))
    board.publish("m", VersionStatus(3, State.AVAILABLE))
    board.publish("m", VersionStatus(2, State.END, ServingError(Code.DATA_LOSS, "broken")))
    return board


FAILED = (
    'model_version_status { version: 2 state: END status { error_code: DATA_LOSS error_message: "broken" } }'
)
ALL = f"""
    model_version_status {{ version: 3 state: AVAILABLE status {{ }} }}
    {FAILED}
    model_version_status {{ version: 1 state: END status {{ }} }}
"""


@pytest.mark.parametrize(
    ("spec", "expected"),
    [(ModelSpec("m"), ALL), (ModelSpec("m", label="any"), ALL), (ModelSpec("m", 2), FAILED)],
)
def test_versions_are_listed_highest_first(board: StateBoard, spec: ModelSpec, expected: str) -> None:
    response = get_model_status(board, spec)
    assert response == text_format.Parse(expected, type(response)())


@pytest.mark.parametrize("state", State)
def test_every_state_has_its_name(state: State) -> None:
    board = StateBoard()
    board.publish("m", VersionStatus(1, state))
    (entry,) = get_model_status(board, ModelSpec("m")).model_version_status
    assert entry.State.Name(entry.state) == state.name
    assert entry.HasField("status")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec("n"), "Could not find any versions of model n"),
        (ModelSpec("n", 1), "Could not find any versions of model n"),
        (ModelSpec(""), "Could not find any versions of model "),
        (ModelSpec("m", 9), "Could not find version 9 of model m"),
        (ModelSpec("m", 0), "Could not find version 0 of model m"),
    ],
)
def test_what_was_never_seen(board: StateBoard, spec: ModelSpec, message: str) -> None:
    with pytest.raises(ServingError) as raised:
        get_model_status(board, spec)
    assert str(raised.value) == f"NOT_FOUND: {message}"
