from __future__ import annotations

import os

from app.lifecycle.black_box import MOST_CRASHES, Activity, BlackBox, Suspect

ONE, TWO = Suspect("m", 1, "/models/m/1"), Suspect("m", 2, "/models/m/2")


def die(box: BlackBox, *doing: tuple[Suspect, Activity]) -> None:
    """A worker that dies while it does this."""
    child = os.fork()
    if child == 0:
        for suspect, activity in doing:
            box.mark(box.begin(suspect), activity)
        os._exit(1)
    os.waitpid(child, 0)


def test_the_parent_reads_what_a_worker_did() -> None:
    box = BlackBox()
    die(box, (ONE, Activity.RUNNING), (TWO, Activity.LOADING), (ONE, Activity.IDLE))
    findings = box.find()
    assert (findings.running, findings.loading, findings.convicted) == ((ONE,), (TWO,), None)
    assert str(findings) == "It loaded {name: m version: 2}. It ran {name: m version: 1}."
    assert str(box.find()) == ""


def test_a_version_that_kills_alone_is_convicted_at_last() -> None:
    box = BlackBox()
    for _ in range(MOST_CRASHES):
        assert not box.convicted
        die(box, (TWO, Activity.LOADING))
        findings = box.find()
    assert findings.convicted == TWO
    assert box.convicted == {TWO.path: TWO}
    assert str(findings).endswith("{name: m version: 2} will not be loaded again.")


def test_of_several_nobody_is_convicted_but_they_load_alone_from_then_on() -> None:
    box = BlackBox()
    for _ in range(MOST_CRASHES * 2):
        die(box, (ONE, Activity.LOADING), (TWO, Activity.LOADING))
        box.find()
        assert box.one_at_a_time
    assert not box.convicted


def test_who_only_ran_is_not_convicted() -> None:
    box = BlackBox()
    for _ in range(MOST_CRASHES + 1):
        die(box, (ONE, Activity.RUNNING))
        box.find()
    assert not box.convicted


def test_slots_are_given_back_and_may_run_out() -> None:
    box = BlackBox()
    for _ in range(3000):
        box.mark(box.begin(ONE), Activity.NOTHING)
    slots = [box.begin(ONE) for _ in range(1030)]
    assert slots[1023:] == [1023, -1, -1, -1, -1, -1, -1]
    box.mark(-1, Activity.RUNNING)
    assert len(box.find().running) == 0
    assert box.begin(Suspect("m", 1, "/" + "x" * 2000)) == -1
