"""The local directory with what was fetched from remote base paths.

```
DIRECTORY/.lock                 held by the process that uses it
DIRECTORY/partial/...           being fetched; removed when the directory is opened
DIRECTORY/versions/URI.CONTENT  one version, whole; named by digests of its URI and of its listing
```

A version is there as long as somebody holds it. A directory that the user names is kept when the
server ends, so that the next one need not fetch again what has not changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from app.errors import Code, ServingError
from app.lifecycle.fetch import described, fetch, has_all
from app.lifecycle.remote import fingerprint_of
from app.lifecycle.store import Stores

logger = logging.getLogger(__name__)

_PREFIX = "ferry-models-"
_LOCK = ".lock"
# What an earlier server left and no later one wanted for so long is removed.
_UNUSED_SECONDS = 7 * 86400


@dataclass
class _Entry:
    """Who holds a URI; `lock` is held while it is fetched or removed."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    holders: set[tuple[str, int]] = field(default_factory=set)


class ModelCache:
    """Fetches versions once, for as long as they are held. Thread-safe."""

    def __init__(self, stores: Stores, directory: str = "") -> None:
        """Touch nothing yet.

        Args:
            stores: what is fetched from.
            directory: made if it is missing. Empty: a temporary one, removed at the end.
        """
        self._stores = stores
        self._named = Path(directory).absolute() if directory else None
        self._root: Path | None = None
        self._lock_file = -1
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def open(self) -> Path:
        """Take the directory for this process and remove what half-done fetches have left.

        Raises:
            ServingError: FAILED_PRECONDITION if it cannot be written, or another server uses it.
        """
        with self._lock:
            if self._root is None:
                try:
                    self._root = self._opened()
                except OSError as error:
                    where = self._named or tempfile.gettempdir()
                    raise ServingError(
                        Code.FAILED_PRECONDITION,
                        f"Cannot keep models in {where}: {error.strerror}. Name a directory with "
                        f"--model_cache_dir that user {os.getuid()}, group {os.getgid()} can write.",
                    ) from error
            return self._root

    def _opened(self) -> Path:
        if self._named is None:
            _remove_abandoned(Path(tempfile.gettempdir()))
            # Renamed when it is locked, so that nobody takes it for abandoned.
            new = Path(tempfile.mkdtemp(prefix=".ferry-new-"))
            self._lock_file = _locked(new)
            root = new.with_name(_PREFIX + new.name.removeprefix(".ferry-new-"))
            new.rename(root)
        else:
            root = self._named
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._lock_file = _locked(root)
            except BlockingIOError:
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    f"--model_cache_dir={root} is in use by another server. Give each one its own.",
                ) from None
        shutil.rmtree(root / "partial", ignore_errors=True)
        (root / "partial").mkdir(mode=0o700)
        (root / "versions").mkdir(mode=0o700, exist_ok=True)
        for version in (root / "versions").iterdir():
            if time.time() - version.stat().st_mtime > _UNUSED_SECONDS:
                shutil.rmtree(version, ignore_errors=True)
        return root

    def fetch(self, model: str, number: int, uri: str) -> str:
        """A local directory with the version at `uri`, held for `model` and `number` until `drop`.

        Raises:
            ServingError: what `fetch.described` and `fetch.fetch` raise.
        """
        root = self.open()
        with self._lock:
            entry = self._entries.setdefault(uri, _Entry())
            entry.holders.add((model, number))
        with entry.lock:
            store = self._stores.of(uri)
            objects = described(store, uri)
            final = root / "versions" / f"{_digest(uri)}.{_digest(repr(fingerprint_of(objects)))}"
            if final.exists() and not has_all(final, objects):
                shutil.rmtree(final)
            if final.exists():
                logger.info("%s has not changed since it was fetched; it is in %s", uri, final)
            else:
                self._remove(root, uri)  # its content is another now
                partial = Path(tempfile.mkdtemp(dir=root / "partial"))
                try:
                    fetch(
                        store,
                        uri,
                        objects,
                        partial=partial,
                        final=final,
                        make_room=lambda size: self._make_room(root, uri, size),
                    )
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
            os.utime(final)
            return str(final)

    def drop(self, model: str, number: int, uri: str) -> None:
        """Let `uri` go for `model` and `number`; the last one removes it. Fine if it was never held."""
        with self._lock:
            entry = self._entries.get(uri)
            root = self._root
        if entry is None or root is None:
            return
        with entry.lock:
            with self._lock:
                entry.holders.discard((model, number))
                if entry.holders:
                    return
            self._remove(root, uri)

    def discard(self, uri: str) -> None:
        """Remove what was fetched from `uri`, for it is damaged: the next `fetch` fetches anew."""
        root = self.open()
        with self._lock:
            entry = self._entries.setdefault(uri, _Entry())
        with entry.lock:
            self._remove(root, uri)

    def _make_room(self, root: Path, uri: str, size: int) -> None:
        """Have `size` bytes free, by removing what nobody holds, the longest unused first."""
        with self._lock:
            held = {_digest(name) for name, entry in self._entries.items() if entry.holders}
        unheld = (version for version in (root / "versions").iterdir() if version.name[:32] not in held)
        for version in sorted(unheld, key=lambda path: path.stat().st_mtime):
            if shutil.disk_usage(root).free >= size:
                return
            shutil.rmtree(version, ignore_errors=True)
        if (free := shutil.disk_usage(root).free) < size:
            raise ServingError(
                Code.RESOURCE_EXHAUSTED,
                f"Fetching {uri} needs {size / 1e6:.0f} MB, and {root} has {free / 1e6:.0f} MB free. "
                "Free some, or name a larger place with --model_cache_dir.",
            )

    def _remove(self, root: Path, uri: str) -> None:
        for version in (root / "versions").glob(f"{_digest(uri)}.*"):
            shutil.rmtree(version, ignore_errors=True)

    def close(self) -> None:
        """Give the directory back; a temporary one is removed."""
        with self._lock:
            root, self._root = self._root, None
            if root is None:
                return
            if self._named is None:
                shutil.rmtree(root, ignore_errors=True)
            os.close(self._lock_file)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _locked(directory: Path) -> int:
    """The descriptor of the directory's lock, held; BlockingIOError if another process holds it."""
    descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _remove_abandoned(parent: Path) -> None:
    """Remove temporary caches of servers that ended without a chance to do so themselves."""
    for root in parent.glob(f"{_PREFIX}*"):
        try:
            if root.lstat().st_uid != os.getuid() or not (root / _LOCK).is_file():
                continue
            descriptor = _locked(root)
        except OSError:
            continue  # in use, or not ours
        shutil.rmtree(root, ignore_errors=True)
        os.close(descriptor)
