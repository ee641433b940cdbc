"""Configurations of all workers: one that is asked to change it has all of them check it, then apply it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from app.config.model_config import ModelConfig
from app.errors import Code, ServingError, without_traceback
from app.lifecycle.served_models import ServedModels
from app.workers.crew import Crew
from app.workers.joint_board import JointBoard

logger = logging.getLogger(__name__)

_DONE = "done"


@dataclass(frozen=True)
class Proposal:
    """Models that one worker wants all to serve.

    Attributes:
        number: of the proposal.
        step: whether to say what speaks against it, to serve it from now on, or to forget it.
        models: the full list.
        in_force: the list that workers begin with which start now; None for the flags' own.
    """

    number: int
    step: Literal["check", "apply", "refused"]
    models: tuple[ModelConfig, ...]
    in_force: tuple[ModelConfig, ...] | None

    @property
    def question(self) -> str:
        """By which replies are known."""
        return f"{self.step} {self.number}"


class JointModels:
    """Puts configurations into force in all workers. Safe for any number of threads."""

    def __init__(self, crew: Crew, board: JointBoard, served: ServedModels) -> None:
        """Change `served`, in this worker, when any worker proposes it."""
        self._crew = crew
        self._board = board
        self._served = served
        self._handled = ""
        self._begun = threading.Event()
        board.listen(self._look)

    def first(self) -> Sequence[ModelConfig] | None:
        """What a worker that starts has to serve; None for what the flags name."""
        proposal = self._crew.proposed()
        if proposal is None:
            return None
        if proposal.step == "apply":
            self._handled = proposal.question
            self._board.reply(proposal.question, _DONE)  # heard once this worker has joined
        in_force: tuple[ModelConfig, ...] | None = proposal.in_force
        return in_force

    def begun(self) -> None:
        """What the worker began with is in force; others' proposals may follow."""
        self._begun.set()

    def apply(self, models: Sequence[ModelConfig]) -> None:
        """As `ServedModels.apply`, in all workers; nothing changes if one of them refuses.

        Raises:
            ServingError: that of the first worker that has one.
        """
        with self._crew.turn():
            self._served.check(models)
            last = self._crew.proposed()
            before = None if last is None else last.in_force
            number = 1 if last is None else last.number + 1
            errors = self._ask(Proposal(number, "check", tuple(models), before), lambda: None)
            if errors:
                self._crew.propose(Proposal(number, "refused", (), before))
                raise errors[0]
            proposal = Proposal(number, "apply", tuple(models), tuple(models))
            errors = self._ask(proposal, lambda: self._served.apply(models))
        if errors:
            raise errors[0]

    def _ask(self, proposal: Proposal, here: Callable[[], None]) -> list[ServingError]:
        """What goes wrong in this worker, where `here` is called, and in the others."""
        self._handled = proposal.question
        if not self._crew.propose(proposal):
            text = "The list of models is too long to tell it to all workers; use --server_workers=1."
            return [ServingError(Code.RESOURCE_EXHAUSTED, text)]
        own = _outcome(here)
        # Who dies meanwhile is not waited for: its successor begins with what is in force.
        self._board.wait(lambda: None not in self._board.replies(proposal.question).values())
        others = self._board.replies(proposal.question).values()
        return [outcome for outcome in (own, *others) if isinstance(outcome, ServingError)]

    def _look(self) -> None:
        proposal = self._crew.proposed()
        if proposal is None or proposal.question == self._handled:
            return
        self._handled = proposal.question
        if proposal.step != "refused":
            threading.Thread(target=self._answer, args=(proposal,), name="ferry-reload", daemon=True).start()

    def _answer(self, proposal: Proposal) -> None:
        self._begun.wait()
        do = self._served.check if proposal.step == "check" else self._served.apply
        self._board.reply(proposal.question, _outcome(lambda: do(proposal.models)))


def _outcome(do: Callable[[], None]) -> ServingError | str:
    try:
        do()
    except ServingError as error:
        return without_traceback(error)
    except Exception as error:
        logger.exception("A configuration could not be put into force")
        return without_traceback(error)
    return _DONE
