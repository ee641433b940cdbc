"""The composition root: every part of the server is made and wired here, and nowhere else.

`Server` lives in the worker process. The parts, from the bottom: a board of states, the manager
that owns model versions, the source that finds them, the API's two faces. `start` brings them up
in that order and listens for gRPC last; the worker then listens for REST. `drain` and `stop` go the
other way.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import falcon.asgi

from app.engine import savedmodel
from app.engine.model import Model
from app.engine.session_config import session_config
from app.errors import Code, ServingError
from app.lifecycle.manager import Manager
from app.lifecycle.source import FileSystemSource
from app.lifecycle.states import State, StateBoard, VersionStatus
from app.options import Options, without_effect
from app.rest.application import make_application
from app.rest.service import RestService
from app.rpc.grpcio_transport import GrpcServer
from app.rpc.methods import method_table

logger = logging.getLogger(__name__)


class Server:
    """Serves one model, from `start` to `stop`.

    Attributes:
        rest: the ASGI application, to be served by whoever owns the event loop.
    """

    def __init__(self, options: Options) -> None:
        """Make and wire the parts; nothing runs yet."""
        self._options = options
        self._board = StateBoard()
        self._manager: Manager[Model] = Manager(
            self._loader(),
            self._board,
            max_retries=options.max_num_load_retries,
            retry_seconds=options.load_retry_interval_micros / 1e6,
        )
        self._source = FileSystemSource(
            {options.model_name: os.path.normpath(options.model_base_path)},
            self._manager,
            options.file_system_poll_wait_seconds,
        )
        self._grpc = GrpcServer(method_table(self._manager, self._board, options), options)
        self.rest: falcon.asgi.App[Any, Any] = make_application(
            RestService(self._manager, self._board, options), options
        )

    def _loader(self) -> Callable[[str, int, str], Model]:
        config = session_config(self._options)
        tags = self._options.saved_model_tags.split(",") if self._options.saved_model_tags else ["serve"]

        def load(name: str, version: int, path: str) -> Model:
            del name, version
            model = savedmodel.load(path, tags, config)
            if self._options.enable_model_warmup:
                model.warm_up()
            return model

        return load

    def start(self) -> None:
        """Load the model, then answer gRPC. Blocks until both are done, however long it takes.

        Raises:
            ServingError: the model cannot be served, or the gRPC address cannot be bound.
        """
        for flag in without_effect(self._options):
            logger.warning("--%s has no effect: %s.", flag.name, flag.reason)
        logger.info(
            "Building single TensorFlow model file config:  model_name: %s model_base_path: %s",
            self._options.model_name,
            self._options.model_base_path,
        )
        self._manager.start()
        self._source.start()
        self._wait_for_model(self._options.model_name)
        self._grpc.start()

    def _wait_for_model(self, name: str) -> None:
        """Wait until a version is available; fail if one failed for good before that."""

        def decided() -> bool:
            versions = self._board.versions(name)
            return any(status.state is State.AVAILABLE or _failed(status) for status in versions)

        self._board.wait(decided)
        versions = self._board.versions(name)
        if any(status.state is State.AVAILABLE for status in versions):
            return
        failure = next(status for status in versions if _failed(status))
        raise ServingError(
            Code.UNKNOWN,
            f"1 servable(s) did not become available: {{{{{{name: {name} version: {failure.version}}} "
            f"due to error: {failure.error}}}, }}",
        )

    def drain(self, deadline: float) -> None:
        """Take no more gRPC calls and let the running ones finish, until `deadline` (monotonic)."""
        self._grpc.stop(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """End the threads and close the models; call it when nothing is served any more."""
        self._source.stop()
        self._manager.stop()


def _failed(status: VersionStatus) -> bool:
    return status.state is State.END and status.error is not None
