"""All base paths: local ones are looked at by one thread, those of each remote store by another.

So a store that hangs or refuses holds up no model but its own.
"""

from __future__ import annotations

import threading
from collections.abc import Container, Mapping

from app.config.base_path import is_remote
from app.lifecycle.remote import RemoteStorage
from app.lifecycle.source import AspiredVersionsTarget, FileSystemSource, SourceModel
from app.lifecycle.store import Stores, address_of

# Listings cost requests, so what was just uploaded is not looked at more often than this.
_LONGEST_QUIET_SECONDS = 10.0


class Sources:
    """Hands each model to the source of its kind of base path."""

    def __init__(
        self,
        target: AspiredVersionsTarget,
        poll_seconds: float,
        stores: Stores,
        remote_poll_seconds: float,
        *,
        skipped: Container[str] = (),
    ) -> None:
        """Prepare sources without models.

        Args:
            target: told the versions to have after every look.
            poll_seconds: time between looks; 0 looks once, below 0 never.
            stores: where remote base paths are.
            remote_poll_seconds: the least time between looks at a remote base path.
            skipped: paths of versions that are as good as absent.
        """
        self._skipped = skipped
        self._target = target
        self._stores = stores
        self._remote_poll_seconds = (
            max(poll_seconds, remote_poll_seconds) if poll_seconds > 0 else poll_seconds
        )
        self._quiet_seconds = min(_LONGEST_QUIET_SECONDS, remote_poll_seconds)
        self._lock = threading.Lock()
        self._local = FileSystemSource(target, poll_seconds, skipped=skipped)
        self._remote: dict[str, FileSystemSource] = {}
        self._models: Mapping[str, SourceModel] = {}

    def set_models(self, models: Mapping[str, SourceModel]) -> None:
        """Look for exactly these models from now on; versions of others are no longer wanted."""
        with self._lock:
            stays = {name: model for name, model in models.items() if self._models.get(name) == model}
            self._models = dict(models)
            for address in {_address(model) for model in models.values()} - self._remote.keys() - {""}:
                self._remote[address] = self._new_source(address)
            # Twice, so that no source still looks for a model that another has begun to look for.
            for now in (stays, models):
                for address, source in {"": self._local, **self._remote}.items():
                    own = {name: model for name, model in now.items() if _address(model) == address}
                    source.set_models(own, elsewhere=models)
            for address in self._remote.keys() - {_address(model) for model in models.values()}:
                self._remote.pop(address).stop(wait=False)

    def _new_source(self, address: str) -> FileSystemSource:
        storage = RemoteStorage(self._stores, self._quiet_seconds)
        source = FileSystemSource(
            self._target,
            self._remote_poll_seconds,
            storage,
            name=f"ferry-source-{address}",
            skipped=self._skipped,
        )
        source.start()
        return source

    def start(self) -> None:
        """Begin to look, in threads of their own."""
        self._local.start()

    def stop(self) -> None:
        """End the threads; a look at a remote store under way ends by itself."""
        with self._lock:
            self._local.stop()
            for source in self._remote.values():
                source.stop(wait=False)


def _address(model: SourceModel) -> str:
    """The remote store of a model; empty for a local directory."""
    return address_of(model.base_path) if is_remote(model.base_path) else ""
