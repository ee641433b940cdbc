"""Applies configurations: which models are served changes here, all of it or nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from app.config.base_path import normalised
from app.config.model_config import ModelConfig, check_platform
from app.config.request_logging import RequestLogging
from app.errors import Code, ServingError, invalid_argument
from app.lifecycle.labels import Labels
from app.lifecycle.source import SourceModel
from app.lifecycle.sources import Sources
from app.lifecycle.states import State, StateBoard, VersionStatus

logger = logging.getLogger(__name__)


class RequestLogs(Protocol):
    """Who records requests."""

    def check(self, wanted: Mapping[str, RequestLogging]) -> None:
        """Refuse what cannot be recorded, by model; raises ServingError."""

    def apply(self, wanted: Mapping[str, RequestLogging]) -> None:
        """Record so from now on."""


class ServedModels:
    """The configuration in force. One change at a time; a change that is refused leaves no trace."""

    def __init__(
        self,
        source: Sources,
        board: StateBoard,
        labels: Labels,
        *,
        allow_labels_for_unavailable: bool = False,
        request_logs: RequestLogs | None = None,
    ) -> None:
        """Begin without models.

        Args:
            source: told which base paths to look at.
            board: tells which versions are available.
            labels: replaced with each configuration.
            allow_labels_for_unavailable: a label that does not move may name a version that is not
                available (yet).
            request_logs: told whose requests are to be recorded; they are not if None.
        """
        self._request_logs = request_logs
        self._source = source
        self._board = board
        self._labels = labels
        self._allow_labels_for_unavailable = allow_labels_for_unavailable
        self._lock = threading.Lock()
        self._models: Mapping[str, ModelConfig] = {}

    def models(self) -> Mapping[str, ModelConfig]:
        """The configuration in force, by name. While one is being put into force it is the new one."""
        return self._models

    def apply(
        self, models: Sequence[ModelConfig], *, noun: str = "model", served_elsewhere: bool = False
    ) -> None:
        """Serve exactly `models`, and wait until each new one has a version that is available.

        Args:
            models: the full list; what is not in it is unloaded.
            noun: what the error text calls models that did not become available.
            served_elsewhere: other workers serve just this. So the versions that labels name are
                available, although nothing is loaded here yet; and what fails to load is no reason
                to serve nothing.

        Raises:
            ServingError: INVALID_ARGUMENT or FAILED_PRECONDITION, and nothing has changed; UNKNOWN if
                a new model failed to load, and everything else is in force.
        """
        with self._lock:
            wanted = self._checked(models, check_labels=not served_elsewhere)
            if wanted == self._models and models:
                return
            logged = _logged(wanted)
            new = [name for name in wanted if name not in self._models]
            before = {name: self._board.versions(name) for name in new}
            logger.info("Adding/updating models.")
            for name in wanted:
                logger.info(" (Re-)adding model: %s", name, extra={"model": name})
            self._models = wanted
            if self._request_logs is not None:
                self._request_logs.apply(logged)
            self._labels.replace({name: model.labels for name, model in wanted.items()})
            self._source.set_models(
                {
                    name: SourceModel(normalised(model.base_path), model.policy)
                    for name, model in wanted.items()
                }
            )
            self._board.wake()  # readiness depends on the list too
            failures = self._failures(before)
            if failures and not served_elsewhere:
                text = f"{len(failures)} {noun}(s) did not become available: {{{''.join(failures)}}}"
                raise ServingError(Code.UNKNOWN, text)
            logger.info("Finished adding/updating models")

    def check(self, models: Sequence[ModelConfig]) -> None:
        """Raise what `apply` would before it changes anything."""
        with self._lock:
            self._checked(models)

    def _checked(self, models: Sequence[ModelConfig], *, check_labels: bool = True) -> dict[str, ModelConfig]:
        wanted = {model.name: model for model in models}
        self._check_platforms(wanted.values())
        if check_labels:
            self._check_labels(wanted.values())
        if self._request_logs is not None and not (wanted == self._models and models):
            self._request_logs.check(_logged(wanted))
        return wanted

    def _check_platforms(self, wanted: Iterable[ModelConfig]) -> None:
        for model in wanted:
            current = self._models.get(model.name)
            if current is not None and current.platform != model.platform:
                raise invalid_argument(
                    f"Illegal to change a model's platform. For model {model.name} platform was "
                    f"{current.platform} and new platform requested is {model.platform}"
                )
        for model in wanted:
            check_platform(model)

    def _check_labels(self, wanted: Iterable[ModelConfig]) -> None:
        for model in wanted:
            available = {
                status.version
                for status in self._board.versions(model.name)
                if status.state is State.AVAILABLE
            }
            current = self._labels.of(model.name)
            for label, version in model.labels.items():
                stays = current.get(label, version) == version
                if version in available or (self._allow_labels_for_unavailable and stays):
                    continue
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {model.name}, which is not "
                    "currently available for inference",
                )

    def _failures(self, before: Mapping[str, list[VersionStatus]]) -> list[str]:
        """Wait until every model in `before` has a version that is available or failed since then."""

        def since(name: str) -> list[VersionStatus]:
            return [status for status in self._board.versions(name) if status not in before[name]]

        def decided(name: str) -> bool:
            return any(status.state is State.AVAILABLE or _failed(status) for status in since(name))

        self._board.wait(lambda: all(decided(name) for name in before))
        failures = []
        for name in before:
            versions = since(name)
            if not any(status.state is State.AVAILABLE for status in versions):
                failure = next(status for status in versions if _failed(status))
                failures.append(
                    f"{{{{name: {name} version: {failure.version}}} due to error: {failure.error}}}, "
                )
        return failures


def _logged(wanted: Mapping[str, ModelConfig]) -> dict[str, RequestLogging]:
    """Whose requests are to be recorded, and how."""
    return {name: model.logging for name, model in wanted.items() if model.logging is not None}


def _failed(status: VersionStatus) -> bool:
    return status.state is State.END and status.error is not None
