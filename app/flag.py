"""What a flag is, and how a field of `Options` says it."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Any

from app.cpus import usable_cpus


class Support(enum.Enum):
    """What becomes of a flag that is given."""

    ACTS = "acts"
    IGNORED = "accepted, no effect"
    REFUSED = "refused"


@dataclass(frozen=True)
class Flag:
    """One flag, as the parser and the documentation see it.

    Attributes:
        name: without the dashes.
        type: `int32`, `int64`, `bool`, `string` or `float`.
        default: the value when the flag is absent.
        help: one line.
        support: whether a value other than the default acts, is ignored with a warning, or
            stops the start.
        reason: why it does not act; empty when it does.
        cpu_factor: the default is this many times the number of usable CPUs; 0 if it is fixed.
    """

    name: str
    type: str
    default: Any
    help: str
    support: Support
    reason: str
    cpu_factor: int


def flag_field(
    kind: str, default: Any, text: str, *, ignored: str = "", refused: str = "", cpu_factor: int = 0
) -> Any:
    """A field of `Options`, annotated with the Python type of its value.

    Args:
        kind: the flag's type, as in `Flag`.
        default: the value when the flag is absent.
        text: the help.
        ignored: why the flag is accepted without effect, if it is.
        refused: why the flag stops the start, if it does.
        cpu_factor: as in `Flag`; it replaces the default unless it is 0.
    """
    if cpu_factor:
        default = cpu_factor * usable_cpus()
    support = Support.IGNORED if ignored else Support.REFUSED if refused else Support.ACTS
    metadata: dict[str, Any] = {"type": kind, "help": text, "support": support, "reason": ignored or refused}
    metadata["cpu_factor"] = cpu_factor
    return dataclasses.field(default=default, metadata=metadata)
