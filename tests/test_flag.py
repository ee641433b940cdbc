from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from app.cpus import usable_cpus
from app.flag import Flag, Support, flag_field


def flag_of(field: Any) -> Flag:
    return Flag(name="some_flag", default=field.default, **field.metadata)


@pytest.mark.parametrize(
    ("reasons", "support", "reason"),
    [
        ({}, Support.ACTS, ""),
        ({"ignored": "not here"}, Support.IGNORED, "not here"),
        ({"refused": "unsafe"}, Support.REFUSED, "unsafe"),
    ],
)
def test_a_field_knows_its_flag(reasons: Any, support: Support, reason: str) -> None:
    found = flag_of(flag_field("int32", 7, "Seven.", **reasons))
    assert found == Flag("some_flag", "int32", 7, "Seven.", support, reason, cpu_factor=0)


def test_a_default_can_follow_the_cpus() -> None:
    found = flag_of(flag_field("int32", 0, "Threads.", cpu_factor=4))
    assert (found.default, found.cpu_factor) == (4 * usable_cpus(), 4)


def test_a_field_gives_a_dataclass_its_default() -> None:
    made: Any = dataclasses.make_dataclass("Made", [("some_flag", int, flag_field("int32", 7, "Seven."))])
    assert made().some_flag == 7
