"""What the metrics page tells of models: states, labels and whether the server is ready."""

from __future__ import annotations

from app.lifecycle.readiness import Condition, Models, Readiness
from app.lifecycle.states import State, StateBoard
from app.telemetry.instruments import Cells
from app.telemetry.metrics import Registry


def add_model_metrics(registry: Registry, readiness: Readiness, board: StateBoard) -> None:
    """Add the metrics, which are read off `readiness` and `board` whenever the page is asked for."""
    registry.view(
        "/ferry/ready",
        "gauge",
        (),
        lambda: [((), int(readiness.condition() is Condition.READY))],
        "1 if every configured model has an available version and no drain has begun.",
    )
    registry.view(
        "/ferry/model_version_state",
        "gauge",
        ("model_name", "version", "state"),
        lambda: _states(readiness.models(), board),
        "1 for the state of each version of a configured model, but for those that ended without an error.",
    )
    registry.view(
        "/ferry/model_labels",
        "gauge",
        ("model_name", "label", "version"),
        lambda: _labels(readiness.models()),
        "1 for the version that each label of a configured model means.",
    )


def _states(models: Models, board: StateBoard) -> Cells:
    # Nothing on the board is forgotten: a model that gets a version each day would grow the page for ever.
    return [
        ((name, str(status.version), status.state.name), 1)
        for name in sorted(models)
        for status in board.versions(name)
        if status.state is not State.END or status.error is not None
    ]


def _labels(models: Models) -> Cells:
    return [
        ((name, label, str(version)), 1)
        for name in sorted(models)
        for label, version in sorted(models[name].labels.items())
    ]
