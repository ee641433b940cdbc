"""Loads, unloads and what is forgotten: the work on versions that takes time, done without the lock.

The manager decides what is begun. To begin is to count the work and mark the version as busy, under the lock;
what is returned does the work, in a thread of its own, and writes to the table what became of the version.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Generic

from app.errors import Code, ServingError, without_traceback
from app.lifecycle.black_box import Activity, BlackBox, Suspect
from app.lifecycle.states import State
from app.lifecycle.version import S, Version, close
from app.lifecycle.version_table import VersionTable

logger = logging.getLogger(__name__)

Job = Callable[[], None]

_CANCELLED = "Loading of servable cancelled"


class Jobs(Generic[S]):
    """Begins work on versions within its limits. All but the jobs themselves is called under the lock."""

    def __init__(
        self,
        table: VersionTable[S],
        load: Callable[[str, int, str], S],
        black_box: BlackBox,
        *,
        max_retries: int,
        retry_seconds: float,
        load_threads: int,
        unload_threads: int,
        initial_load_threads: int,
        forgotten: Callable[[str, int, str], None] | None,
    ) -> None:
        """Prepare to work on the versions of `table`; the rest is as `Manager` is told it."""
        self._table = table
        self._load_servable = load
        self._box = black_box
        self._forgotten = forgotten
        self._max_retries = max(0, max_retries)
        self._retry_seconds = max(0.0, retry_seconds)
        self._load_threads = max(1, load_threads)
        self._unload_threads = max(1, unload_threads)
        self._loads_at_a_time = max(self._load_threads, initial_load_threads)
        self._loads = self._unloads = 0  # under way

    def initial_loads_done(self) -> None:
        """From now on versions load beside requests: fewer at a time."""
        self._loads_at_a_time = self._load_threads

    def may_load(self) -> bool:
        """Whether one more load may begin."""
        return self._loads < self._loads_at_a_time

    def begin_load(self, version: Version[S]) -> Job:
        """An attempt to load `version`, which is LOADING; only if `may_load`."""
        version.busy = True
        version.attempts += 1
        self._loads += 1
        return partial(self._load, version)

    def begin_unload(self, version: Version[S]) -> Job | None:
        """The end of `version`, which is UNLOADING and not in use; None if enough unload already."""
        if self._unloads >= self._unload_threads:
            return None
        version.busy = True
        self._unloads += 1
        return partial(self._unload, version)

    def begin_forget(self, version: Version[S]) -> Job:
        """What is left to do for `version`, which ended and is not wanted."""
        version.busy = version.forgetting = True
        return partial(self._forget, version)

    def cancel(self, version: Version[S]) -> None:
        """End a version that is no longer wanted before it was loaded."""
        tried = version.state is State.LOADING
        error = ServingError(Code.CANCELLED, _CANCELLED) if tried else None
        self._table.publish(version, State.END, error)
        if tried:
            logger.info("Retrying of Loading servable: %s was cancelled.", version.id, extra=version.fields)

    def _load(self, version: Version[S]) -> None:
        logger.info("Loading servable version %s", version.id, extra=version.fields)
        version.slot = self._box.begin(Suspect(version.model, version.number, version.path))
        try:
            servable = self._load_servable(version.model, version.number, version.path)
        except Exception as error:  # whatever a model does, the server goes on
            if not isinstance(error, ServingError):
                logger.error("A load ended in an unexpected error", exc_info=error, extra=version.fields)
            # Not the one that was raised: the board keeps it, and its traceback all that the load had made.
            self._box.mark(version.slot, Activity.NOTHING)
            self._load_failed(version, without_traceback(error))
        else:
            self._box.mark(version.slot, Activity.IDLE)
            self._loaded(version, servable)
        finally:
            with self._table.changed:
                version.busy = False
                self._loads -= 1
                self._table.changed.notify_all()

    def _loaded(self, version: Version[S], servable: S) -> None:
        with self._table.changed:
            if version.aspired:
                version.servable = servable
                self._table.publish(version, State.AVAILABLE)
                self._table.update_newest(version.model)
        if version.servable is servable:
            logger.info("Successfully loaded servable version %s", version.id, extra=version.fields)
            return
        logger.info("Unloading just-loaded servable version %s", version.id, extra=version.fields)
        close(servable)
        self._box.mark(version.slot, Activity.NOTHING)
        with self._table.changed:
            again = version.path if version.aspired else None
            self._table.end(version, ServingError(Code.CANCELLED, _CANCELLED), again)

    def _load_failed(self, version: Version[S], error: ServingError) -> None:
        final = version.attempts > self._max_retries
        if version.attempts == 1 or str(error) != version.last_error:
            then = (
                ""
                if final
                else (f" It is tried again up to {self._max_retries} times, every {self._retry_seconds:g} s.")
            )
            logger.error("Loading servable: %s failed: %s%s", version.id, error, then, extra=version.fields)
        version.last_error = str(error)
        if final and self._max_retries:  # said first: the end of the only version ends a start
            logger.error(
                "Servable %s cannot be loaded: given up after %d attempts.",
                version.id,
                version.attempts,
                extra=version.fields,
            )
        with self._table.changed:
            version.retry_at = time.monotonic() + self._retry_seconds
            if final:
                self._table.publish(version, State.END, error)

    def _unload(self, version: Version[S]) -> None:
        assert version.servable is not None
        close(version.servable)
        self._box.mark(version.slot, Activity.NOTHING)
        logger.info("Done unloading servable version %s", version.id, extra=version.fields)
        with self._table.changed:
            version.servable = version.handle = None
            version.busy = False
            self._unloads -= 1
            self._table.end(version, None, version.came_back)
            self._table.changed.notify_all()

    def _forget(self, version: Version[S]) -> None:
        """Drop a version that ended and was left out: the board remembers it, and it may come back."""
        if self._forgotten is not None:
            self._forgotten(version.model, version.number, version.path)
        with self._table.changed:
            self._table.drop(version)
            self._table.changed.notify_all()
