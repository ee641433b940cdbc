"""Remote base paths as a `Storage`: which versions a store holds, and which of them are complete."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from app.errors import ServingError
from app.lifecycle.remote_object import RemoteObject
from app.lifecycle.storage import BasePathError, Listing, Settling, list_versions
from app.lifecycle.store import Stores

_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt", "model.tflite")
_SHARD = re.compile(r"variables/variables\.data-\d{5}-of-(\d{5})\Z")
_INDEX = "variables/variables.index"


class RemoteStorage:
    """Looks at remote base paths through listings only.

    An object appears in a store when it is whole, so that a version that is being uploaded lacks
    objects rather than bytes. It is complete when nothing that its names promise is missing, and
    its objects are old or have stayed the same for a while.
    """

    def __init__(self, stores: Stores, quiet_seconds: float) -> None:
        """Prepare to look.

        Args:
            stores: where the base paths are.
            quiet_seconds: how long a version that was just written has to stay the same.
        """
        self._stores = stores
        self._settling = Settling(quiet_seconds)
        self._look_again_seconds = quiet_seconds

    @property
    def look_again_seconds(self) -> float:
        """See `Storage`."""
        return self._look_again_seconds

    def list_versions(self, model: str, base_path: str) -> Listing:
        """See `Storage`.

        A base path without any version is an error: an object store cannot tell an empty directory
        from a missing one, and a web server may answer with any page.
        """
        try:
            names = self._stores.of(base_path).directories(base_path)
        except ServingError as error:
            raise BasePathError(
                f"Could not find base path {base_path} for servable {model} with error {error} "
                "It is looked for again at every poll. What is loaded stays."
            ) from error
        listing = list_versions(base_path, names)
        if not listing.versions:
            raise BasePathError(
                f"No versions of servable {model} found under base path {base_path}. Did you forget to name "
                "your leaf directory as a number (eg. '/1/')? What is loaded stays."
            )
        return listing

    def unfinished(self, path: str) -> str | None:
        """See `Storage`. What was complete once stays so as long as it is listed."""
        if self._settling.knows(path, True):
            return None
        try:
            objects = self._stores.of(path).objects(path)
        except ServingError as error:
            raise BasePathError(f"Could not list version {path} with error {error}") from error
        if lacking := missing(item.name for item in objects):
            return lacking
        fingerprint = fingerprint_of(objects)
        # What a store does not date may be new.
        newest = max(time.time() if item.modified is None else item.modified for item in objects)
        return None if self._settling.has_settled(path, True, fingerprint, newest) else ""

    def forget_all_but(self, paths: set[str]) -> None:
        """See `Storage`."""
        self._settling.forget_all_but(paths)


def missing(names: Iterable[str]) -> str:
    """What a version with files of these names plainly lacks, in a sentence; empty if nothing."""
    present = set(names)
    if not present.intersection(_MODEL_FILES):
        return "It has no saved_model.pb yet."
    shards = [match for name in present if (match := _SHARD.match(name))]
    if not shards:
        return "It has no variables.data yet." if _INDEX in present else ""
    if _INDEX not in present:
        return f"It has no {_INDEX} yet."
    expected = int(shards[0][1])
    return f"It has {len(shards)} of {expected} variables.data yet." if len(shards) < expected else ""


def fingerprint_of(objects: Iterable[RemoteObject]) -> tuple[tuple[str, int, str], ...]:
    """What is the same for the same content."""
    return tuple((item.name, item.size, item.tag) for item in objects)
