"""The numbered version directories under a base path, and whether one is complete."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

# strtoll's grammar, which TensorFlow Serving uses: blanks, a sign and leading zeros are fine.
_NUMBER = re.compile(r"\s*[+-]?[0-9]+\s*\Z", re.ASCII)
_INT64 = 1 << 63


class BasePathError(Exception):
    """The base path cannot be read; the text says what was looked at, found, and what to do."""


@dataclass(frozen=True)
class Listing:
    """What a base path holds.

    Attributes:
        versions: path of each version, by number.
        duplicates: one sentence for each directory that another one with its number hides.
    """

    versions: dict[int, str]
    duplicates: tuple[str, ...] = ()


def read_entries(model: str, base_path: str) -> frozenset[tuple[str, int]]:
    """The entries of `model`'s base path, each with its inode: equal as long as nothing came or went.

    Raises:
        BasePathError: the directory is missing or cannot be read.
    """
    try:
        with os.scandir(base_path) as entries:
            return frozenset((entry.name, entry.inode()) for entry in entries)
    except FileNotFoundError:
        raise BasePathError(
            f"Could not find base path {base_path} for servable {model} with error NOT_FOUND: "
            f"{base_path} not found. Create or mount it; it is looked for again at every poll."
        ) from None
    except NotADirectoryError:
        raise BasePathError(
            f"Base path {base_path} for servable {model} is a file, not a directory. "
            f"It has to hold one directory per version, such as {base_path}/1."
        ) from None
    except OSError as error:
        raise BasePathError(
            f"Could not read base path {base_path} for servable {model}: {error.strerror}. "
            f"Make it readable for user {os.getuid()}, group {os.getgid()}."
        ) from None


def list_versions(base_path: str, names: Iterable[str]) -> Listing:
    """Which of the entries `names` of `base_path` are versions.

    A name is a version if it reads as a decimal int64; others are ignored, as TensorFlow Serving
    does. Of two names with one number the later in byte order wins.
    """
    versions: dict[int, str] = {}
    taken: dict[int, str] = {}
    duplicates = []
    for name in sorted(names, key=os.fsencode):
        if not _NUMBER.match(name) or not -_INT64 <= (number := int(name)) < _INT64:
            continue
        if number in taken:
            duplicates.append(
                f"Duplicate version directories detected. Version {number} will be loaded from "
                f"{name}, {taken[number]} will be ignored."
            )
        taken[number] = name
        versions[number] = os.path.join(base_path, name)
    return Listing(versions, tuple(duplicates))


class Storage(Protocol):
    """Where versions are found: a local file system, or a remote store."""

    @property
    def look_again_seconds(self) -> float:
        """How soon to look again at what is still being written."""

    def list_versions(self, model: str, base_path: str) -> Listing:
        """The versions under `base_path`; raises BasePathError.

        The very object of the last time says that nothing came or went since.
        """

    def unfinished(self, path: str) -> str | None:
        """Why the version at `path` cannot be loaded yet, in a sentence or ""; None if it can.

        Raises BasePathError if that cannot be found out.
        """

    def forget_all_but(self, paths: set[str]) -> None:
        """Drop what is remembered of other versions."""


class LocalStorage:
    """Versions in directories of this machine."""

    look_again_seconds = 0.25

    def __init__(self, quiet_seconds: float = 1.0) -> None:
        """Remember nothing yet; a copy is complete after `quiet_seconds` without a change."""
        self._settling = Settling(quiet_seconds)
        self._listings: dict[str, tuple[frozenset[tuple[str, int]], Listing]] = {}

    def list_versions(self, model: str, base_path: str) -> Listing:
        """See `Storage`."""
        entries = read_entries(model, base_path)
        known = self._listings.get(base_path)
        if known is not None and known[0] == entries:
            return known[1]
        listing = list_versions(base_path, (name for name, _ in entries))
        self._listings[base_path] = entries, listing
        return listing

    def trust(self, path: str) -> None:
        """Take `path` as complete at the next look: it was renamed into place."""
        self._settling.trust(path)

    def unfinished(self, path: str) -> str | None:
        """See `Storage`; there is never more to say than that files still change."""
        return None if self._settling.is_complete(path) else ""

    def forget_all_but(self, paths: set[str]) -> None:
        """See `Storage`."""
        self._settling.forget_all_but(paths)
        self._listings = {
            base_path: kept
            for base_path, kept in self._listings.items()
            if not paths.isdisjoint(kept[1].versions.values())
        }


class Settling:
    """Tells a version directory that is still being copied from one that is complete.

    A directory is complete at the first look if it was renamed into place, or if its files are older
    than twice `quiet_seconds`; another one is once two looks `quiet_seconds` apart have seen the same
    files.
    """

    def __init__(self, quiet_seconds: float = 1.0) -> None:
        """Remember nothing yet."""
        self._quiet = quiet_seconds
        self._complete: dict[str, object] = {}
        self._seen: dict[str, tuple[object, float]] = {}
        self._renamed: set[str] = set()

    def trust(self, path: str) -> None:
        """Take `path` as complete at the next look: it was renamed into place."""
        self._renamed.add(path)

    def is_complete(self, path: str) -> bool:
        """Whether `path` can be loaded; once True for a directory, it stays so."""
        try:
            status = os.stat(path)
        except OSError:
            return True  # what cannot be looked at is left to the load, whose error names the cause
        identity = (status.st_dev, status.st_ino)
        if self.knows(path, identity):
            return True
        if path in self._renamed:
            return self._done(path, identity)
        fingerprint = tuple(sorted(_files(path)))
        newest = max((changed for _, _, changed in fingerprint), default=status.st_ctime)
        return self.has_settled(path, identity, fingerprint, newest)

    def knows(self, path: str, identity: object) -> bool:
        """Whether what stands at `path` was found complete before."""
        return self._complete.get(path) == identity

    def has_settled(self, path: str, identity: object, fingerprint: object, newest: float) -> bool:
        """Whether what stands at `path` is complete.

        Args:
            path: where it stands; a local path or a URI.
            identity: not None, and another one once something else stands there.
            fingerprint: equal as long as nothing is written.
            newest: when something was last written there, as a UNIX time.
        """
        now = time.monotonic()
        # A time stamp in the future (another machine's clock) is not old: it takes the slow way.
        if time.time() - newest >= self._quiet * 2:
            return self._done(path, identity)
        previous, since = self._seen.get(path, (None, now))
        if previous != fingerprint:
            since = now
        self._seen[path] = (fingerprint, since)
        if previous == fingerprint and now - since >= self._quiet:
            return self._done(path, identity)
        return False

    def _done(self, path: str, identity: object) -> bool:
        self._seen.pop(path, None)
        self._complete[path] = identity
        return True

    def forget_all_but(self, paths: set[str]) -> None:
        """Drop what is remembered of directories that are gone."""
        self._renamed.clear()
        self._complete = {path: kept for path, kept in self._complete.items() if path in paths}
        self._seen = {path: kept for path, kept in self._seen.items() if path in paths}


def _files(path: str) -> Iterator[tuple[str, int, float]]:
    """(path, size, time of last change) of every file at or below `path`."""
    try:
        if not os.path.isdir(path):
            status = os.stat(path)
            yield path, status.st_size, status.st_ctime
            return
        for directory, _, names in os.walk(path):
            for name in names:
                file = os.path.join(directory, name)
                status = os.lstat(file)
                if stat.S_ISREG(status.st_mode):
                    yield file, status.st_size, status.st_ctime
    except OSError:
        return  # gone or replaced while it was read: the next look differs
