from __future__ import annotations

import os

from app.telemetry.metrics import Registry
from app.workers.counts import Counts
from app.workers.crew import Crew


def counted(requests: int) -> Counts:
    registry = Registry()
    registry.counter("/requests").increment(by=requests)
    return Counts.of(registry.metrics())


def as_worker(crew: Crew, index: int, requests: int) -> int:
    """A process that counts and ends; its number."""
    process = os.fork()
    if process == 0:
        crew.index = index
        crew.tell(f"I am {index}")
        crew.count_own(counted(requests))
        os._exit(0)
    os.waitpid(process, 0)
    return process


def total(crew: Crew) -> int:
    found, past = crew.counted()
    for _, counts in found.values():
        past = past.plus(counts)
    return sum(int(value) for _, value in past.cells("/requests") if isinstance(value, int))


def test_what_one_tells_the_others_hear_and_their_bells_ring() -> None:
    crew = Crew(3)
    as_worker(crew, 1, 5)
    assert crew.told() == {1: "I am 1"}
    crew.wait()  # would block if it had not rung
    crew.index = 1
    assert crew.told() == {}


def test_the_dead_are_counted_once_and_tell_nothing_any_more() -> None:
    crew = Crew(2)
    for requests in (5, 7):
        as_worker(crew, 1, requests)
        before = total(crew)
        crew.lay_to_rest(1)
        assert total(crew) == before
    assert total(crew) == 12
    assert crew.told() == {}
    as_worker(crew, 1, 1)
    assert total(crew) == 13


def test_a_proposal_outlives_who_made_it() -> None:
    crew = Crew(2)
    assert crew.proposed() is None
    with crew.turn():
        crew.propose(["models"])
    crew.lay_to_rest(0)
    assert crew.proposed() == ["models"]
