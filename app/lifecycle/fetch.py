"""One remote version to a local directory, which is complete and checked or not there at all."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from app.errors import Code, ServingError
from app.lifecycle.remote import missing
from app.lifecycle.remote_object import RemoteObject
from app.lifecycle.store import RemoteStore

logger = logging.getLogger(__name__)

# Left free beside what is fetched: logs and others write too.
_SPARE_BYTES = 64 << 20


def described(store: RemoteStore, uri: str) -> tuple[RemoteObject, ...]:
    """The files of the version at `uri`.

    Raises:
        ServingError: what `RemoteStore.objects` raises; FAILED_PRECONDITION if the version is not whole.
    """
    objects = store.objects(uri)
    if lacking := missing(item.name for item in objects):
        raise ServingError(
            Code.FAILED_PRECONDITION, f"{uri} is not complete. {lacking} Upload what is missing."
        )
    return objects


def fetch(
    store: RemoteStore,
    uri: str,
    objects: Sequence[RemoteObject],
    *,
    partial: Path,
    final: Path,
    make_room: Callable[[int], None],
) -> None:
    """Download `objects`, check them, and move them into place.

    Args:
        store: holds them.
        uri: of the version, for texts.
        objects: what `described` returned.
        partial: an empty directory to write to; gone or of no use afterwards.
        final: where the version stands if this returns, and nothing new does otherwise.
        make_room: called with the bytes that must be free on the file system of `partial`.

    Raises:
        ServingError: RESOURCE_EXHAUSTED for too little room, ABORTED if the version changed meanwhile,
            DATA_LOSS if what came is not what the store says it holds, and what
            `RemoteStore.download` raises.
    """
    size = sum(item.size for item in objects)
    logger.info("Fetching %s: %d files, %.1f MB", uri, len(objects), size / 1e6)
    started = time.monotonic()
    make_room(size + _SPARE_BYTES)
    try:
        store.download(objects, str(partial))
        for item in objects:
            _verify(store, uri, item, partial)
        if described(store, uri) != tuple(objects):
            raise ServingError(
                Code.ABORTED, f"{uri} changed while it was fetched. Publish a change as a new version."
            )
        for directory, _, names in os.walk(partial):
            for name in names:
                _flush(os.path.join(directory, name))
            _flush(directory)
        os.rename(partial, final)
        _flush(str(final.parent))
    except OSError as error:
        raise ServingError(
            Code.UNAVAILABLE, f"Could not write what was fetched from {uri}: {error}. See --model_cache_dir."
        ) from error
    logger.info("Fetched %s in %.1f s", uri, time.monotonic() - started)


def has_all(directory: Path, objects: Sequence[RemoteObject]) -> bool:
    """Whether `directory` has files of the names and sizes of `objects`."""
    try:
        return all((directory / item.name).stat().st_size == item.size for item in objects)
    except OSError:
        return False


def _verify(store: RemoteStore, uri: str, item: RemoteObject, directory: Path) -> None:
    """Compare a file with what the store says of it: DATA_LOSS if they differ."""
    file = directory / item.name
    size = file.stat().st_size
    if size != item.size:
        raise ServingError(
            Code.DATA_LOSS, f"{uri}/{item.name} came with {size} bytes; the store says it has {item.size}."
        )
    if item.md5 is None or (found := _md5(file)) == item.md5:
        return
    if not item.md5_is_sure:
        # The tag of an encrypted object is no digest. Then what comes is the same each time.
        again = directory.with_name(f"{directory.name}-again")
        try:
            again.mkdir(mode=0o700)
            store.download([item], str(again))
            second = _md5(again / item.name)
        finally:
            shutil.rmtree(again, ignore_errors=True)
        if second == found:
            logger.debug("The tag of %s/%s is no MD5; it was read twice instead", uri, item.name)
            return
    raise ServingError(
        Code.DATA_LOSS,
        f"{uri}/{item.name} was damaged on its way: its MD5 is {found.hex()}, "
        f"the store says {item.md5.hex()}.",
    )


def _md5(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).digest()


def _flush(path: str) -> None:
    """Have the disk keep `path`, so that what is in place is whole even after a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
