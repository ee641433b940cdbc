"""What makes a server one of several, or the only one: the same handles for its composition root."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from app.config.model_config import ModelConfig
from app.lifecycle.served_models import ServedModels
from app.lifecycle.states import StateBoard
from app.telemetry.exposition import MetricsPage
from app.telemetry.metrics import Registry
from app.workers.crew import Crew
from app.workers.joint_board import JointBoard
from app.workers.joint_metrics import JointMetrics, process_metrics
from app.workers.joint_models import JointModels

Apply = Callable[[Sequence[ModelConfig]], None]


class Together(Protocol):
    """How a server stands to others that answer on its ports.

    Attributes:
        board: where the states of versions are written and read.
        suffix: of the names of files that each worker has for itself.
    """

    @property
    def board(self) -> StateBoard:
        """Where the states of versions are written and read."""

    @property
    def suffix(self) -> str:
        """For the names of files that each worker has for itself."""

    def attach(self, served: ServedModels, look_again: Callable[[], None]) -> Apply:
        """Say what changes with the others; returns what changes the models of all."""

    def shown(self, registry: Registry) -> Registry:
        """What exporters read in place of `registry`."""

    def page(self, *registries: Registry) -> MetricsPage:
        """The metrics page of all `registries` and of the processes."""

    def start(self) -> Sequence[ModelConfig] | None:
        """Look at the others; returns the models to begin with, None for what the flags name."""

    def join(self) -> None:
        """The models are there: count for the others. May wait until nothing is missing."""

    def leave(self) -> None:
        """Count for them no more."""

    def stop(self) -> None:
        """End the threads."""


class Alone:
    """The only worker: nothing is added to anything."""

    suffix = ""

    def __init__(self) -> None:
        """Make its board."""
        self.board = StateBoard()

    def attach(self, served: ServedModels, look_again: Callable[[], None]) -> Apply:  # noqa: ARG002
        """There is nobody else."""
        return served.apply

    def shown(self, registry: Registry) -> Registry:
        """The registry itself."""
        return registry

    def page(self, *registries: Registry) -> MetricsPage:
        """The metrics of this process."""
        return MetricsPage(registries)

    def start(self) -> None:
        """There is nobody to look at."""

    def join(self) -> None:
        """There is nobody to join."""

    leave = stop = join


class OneOfSeveral:
    """A worker beside others."""

    def __init__(self, crew: Crew) -> None:
        """Stand among `crew`."""
        self.board = JointBoard(crew)
        self.suffix = f"-worker{crew.index}"
        self._crew = crew
        self._metrics = JointMetrics(crew)
        self._models: JointModels | None = None

    def attach(self, served: ServedModels, look_again: Callable[[], None]) -> Apply:
        """Let the others change `served`; `look_again` is called when theirs has changed."""
        self._models = JointModels(self._crew, self.board, served)
        self.board.listen(look_again)
        return self._models.apply

    def shown(self, registry: Registry) -> Registry:
        """The sums of all workers."""
        return self._metrics.add(registry)

    def page(self, *registries: Registry) -> MetricsPage:
        """The sums of all workers, and which there are."""
        self._metrics.add_worker_metrics(registries[-1])
        shown: list[Any] = [self._metrics.add(each) for each in (*registries, process_metrics())]
        return MetricsPage(shown, processes=False)

    def start(self) -> Sequence[ModelConfig] | None:
        """Begin with what is in force, if it is not what the flags name."""
        assert self._models is not None
        self.board.start()
        self._metrics.start()
        return self._models.first()

    def join(self) -> None:
        """Wait until nothing is missing that the others have."""
        assert self._models is not None
        self._models.begun()
        self.board.join()

    def leave(self) -> None:
        """Let the others go on without this worker's versions."""
        self.board.leave()

    def stop(self) -> None:
        """Leave what was counted behind."""
        self._metrics.stop()
        self.board.stop()


def together(crew: Crew | None) -> Together:
    """How a worker of `crew` stands to the others; None for the only one."""
    return Alone() if crew is None else OneOfSeveral(crew)
