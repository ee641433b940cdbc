"""One state for a version out of those that it has in several workers: a pure function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.lifecycle.states import State, VersionStatus

Statuses = Mapping[str, Mapping[int, VersionStatus]]
"""By model and version."""


def joint_statuses(workers: Sequence[Statuses]) -> dict[str, dict[int, VersionStatus]]:
    """What all `workers` together can say of every version that some of them knows.

    AVAILABLE is only what every worker can be asked for.
    """
    joint: dict[str, dict[int, VersionStatus]] = {}
    for model in dict.fromkeys(name for statuses in workers for name in statuses):
        held = [statuses.get(model, {}) for statuses in workers]
        numbers = dict.fromkeys(number for versions in held for number in versions)
        joint[model] = {number: _joint([versions.get(number) for versions in held]) for number in numbers}
    return joint


def _joint(found: Sequence[VersionStatus | None]) -> VersionStatus:
    """The state of one version; None stands for a worker that does not know it, yet or any more."""
    known = [status for status in found if status is not None]
    states = {status.state for status in known}
    if len(states) == 1 and (len(known) == len(found) or State.AVAILABLE not in states):
        return next((status for status in known if status.error is not None), known[0])
    if states & {State.START, State.LOADING} or states == {State.AVAILABLE}:
        return VersionStatus(known[0].version, State.LOADING)  # those that have it wait for those behind
    if State.UNLOADING not in states:  # it failed somewhere, or was never wanted there again
        failed = next((status for status in known if status.error is not None), None)
        return failed or VersionStatus(known[0].version, State.UNLOADING)
    return VersionStatus(known[0].version, State.UNLOADING)
