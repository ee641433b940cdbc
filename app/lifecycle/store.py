"""A remote store of files: a bucket, a container or a web server, through its fsspec driver.

Each store has an event loop in a thread of its own, so that one that hangs holds up nobody else, and
every call has a time limit.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import unquote

from app.errors import Code, ServingError, invalid_argument, not_found
from app.lifecycle.drivers import close_driver, open_driver
from app.lifecycle.remote_object import RemoteObject, remote_object

_LIST_SECONDS = 60.0
_FILES_AT_A_TIME = 8
# A download slower than this is given up; the start is for what happens before the first byte.
_SLOWEST_BYTES_PER_SECOND = 100_000
_START_SECONDS = 60.0
_DEEPEST_INDEX = 20
_STOP_SECONDS = 0.5


class RemoteStore:
    """Lists and reads one store. Thread-safe. Every method may block, within limits."""

    def __init__(self, address: str, environment: Mapping[str, str] = os.environ) -> None:
        """Nothing is imported, started or asked yet.

        Args:
            address: scheme and bucket, container or host: `s3://bucket`, `https://host:8443`.
            environment: where settings for the driver are looked for.
        """
        self.address = address
        self._scheme = address.partition("://")[0]
        self._is_web = self._scheme in ("http", "https")
        self._environment = environment
        self._lock = threading.Lock()
        self._driver: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def directories(self, uri: str) -> list[str]:
        """The names of the directories directly under `uri`, in byte order.

        Raises:
            ServingError: NOT_FOUND if there is nothing, PERMISSION_DENIED, or UNAVAILABLE.
        """
        with self._errors("list", uri):
            driver = self._opened()
            path = driver._strip_protocol(uri).rstrip("/")
            # A web server's index page has the slash.
            listed = self._call("ls", f"{path}/" if self._is_web else path, detail=True)
        names = (entry["name"].rstrip("/").rpartition("/")[2] for entry in listed if _is_directory(entry))
        return sorted(map(self._decoded, names), key=os.fsencode)

    def objects(self, uri: str) -> tuple[RemoteObject, ...]:
        """Every file at any depth under `uri`, sorted by name.

        Raises:
            ServingError: NOT_FOUND if there is none; INVALID_ARGUMENT if a name cannot be a file's;
                PERMISSION_DENIED or UNAVAILABLE.
        """
        with self._errors("list", uri):
            prefix = self._opened()._strip_protocol(uri).rstrip("/") + "/"
            if self._is_web:
                found = self._run(self._index(prefix), _LIST_SECONDS)
            else:
                found = self._call("find", prefix.rstrip("/"), detail=True)
        entries = found.values() if isinstance(found, dict) else ()
        files = [
            entry
            for entry in entries
            if entry["type"] == "file"
            and entry["name"].startswith(prefix)
            and not entry["name"].endswith("/")
        ]
        if not files:
            raise not_found(f"{uri} not found in the store: there is no object below it.")
        return _consistent(
            uri, [remote_object(self._decoded(file["name"][len(prefix) :]), file) for file in files]
        )

    def download(self, objects: Sequence[RemoteObject], directory: str) -> None:
        """Write `objects` to files of their names below `directory`; several at a time.

        Raises:
            ServingError: UNAVAILABLE, NOT_FOUND or PERMISSION_DENIED. Files may be left half-written.
        """
        for name in {os.path.dirname(item.name) for item in objects}:
            os.makedirs(os.path.join(directory, name), mode=0o700, exist_ok=True)
        with self._errors("fetch from", self.address):
            driver = self._opened()
            if driver.async_impl:
                self._run(self._download(driver, objects, directory), None)
                return
            for item in objects:
                driver.get_file(item.key, os.path.join(directory, item.name))

    async def _download(self, driver: Any, objects: Sequence[RemoteObject], directory: str) -> None:
        limit = asyncio.Semaphore(_FILES_AT_A_TIME)

        async def one(item: RemoteObject) -> None:
            async with limit, asyncio.timeout(_START_SECONDS + item.size / _SLOWEST_BYTES_PER_SECOND):
                await driver._get_file(item.key, os.path.join(directory, item.name))

        try:
            async with asyncio.TaskGroup() as group:
                for item in objects:
                    group.create_task(one(item))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _index(self, page: str) -> dict[str, Any]:
        """What a web server's index pages list below `page`, name to entry, with size and tags."""
        files: dict[str, Any] = {}
        pages = [page]
        for _ in range(_DEEPEST_INDEX):
            listed = [entry for url in pages for entry in await self._driver._ls(url, detail=True)]
            # Links to sort a page, and to where we are, are not entries of it.
            entries = [e for e in listed if not {"?", "#"} & set(e["name"]) and not e["name"].endswith("/./")]
            files |= {entry["name"]: entry for entry in entries if not _is_directory(entry)}
            pages = [entry["name"] for entry in entries if _is_directory(entry)]
            if not pages:
                break
        limit = asyncio.Semaphore(_FILES_AT_A_TIME)

        async def described(url: str) -> dict[str, Any]:
            async with limit:
                info: dict[str, Any] = await self._driver._info(url)
                return {**info, "name": url}

        return dict(zip(files, await asyncio.gather(*map(described, files)), strict=True))

    def _decoded(self, name: str) -> str:
        return unquote(name) if self._is_web else name

    def _opened(self) -> Any:
        with self._lock:
            if self._driver is None:
                if self._loop is None:
                    self._loop = asyncio.new_event_loop()
                    name = f"ferry-store-{self.address}"
                    threading.Thread(target=_serve, args=(self._loop,), name=name, daemon=True).start()
                self._driver = open_driver(self._scheme, self._loop, self._environment)
            return self._driver

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """A method of the driver, by its public name, within the time for a listing."""
        if not self._driver.async_impl:
            return getattr(self._driver, method)(*arguments, **options)
        return self._run(getattr(self._driver, f"_{method}")(*arguments, **options), _LIST_SECONDS)

    def _run(self, work: Awaitable[Any], seconds: float | None) -> Any:
        assert self._loop is not None

        async def limited() -> Any:
            async with asyncio.timeout(seconds):
                return await work

        future = asyncio.run_coroutine_threadsafe(limited(), self._loop)
        try:
            # Longer than the limit itself, for a driver that blocks the loop.
            return future.result(None if seconds is None else seconds + 5)
        except BaseException:
            future.cancel()
            raise

    @contextmanager
    def _errors(self, verb: str, uri: str) -> Iterator[None]:
        """Whatever a driver raises, as a ServingError that says what was asked and what to do."""
        try:
            yield
        except ServingError:
            raise
        except Exception as error:  # each driver has its own
            raise _translated(error, verb, uri, self._scheme) from error

    def close(self) -> None:
        """Fail what is under way, then end the loop and the driver's connections."""
        with self._lock:
            if self._loop is not None:
                with suppress(TimeoutError):
                    asyncio.run_coroutine_threadsafe(_end(self._driver), self._loop).result(_STOP_SECONDS)
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = self._driver = None


class Stores:
    """The stores by address, made when first asked for. Thread-safe."""

    def __init__(self, make: Callable[[str], RemoteStore] = RemoteStore) -> None:
        """Begin without any."""
        self._make = make
        self._lock = threading.Lock()
        self._stores: dict[str, RemoteStore] = {}

    def of(self, uri: str) -> RemoteStore:
        """The store that holds `uri`."""
        address = address_of(uri)
        with self._lock:
            if address not in self._stores:
                self._stores[address] = self._make(address)
            return self._stores[address]

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            for store in self._stores.values():
                store.close()
            self._stores.clear()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _end(driver: Any) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await close_driver(driver)


def address_of(uri: str) -> str:
    """Scheme and bucket, container or host of `uri`."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def _is_directory(entry: Mapping[str, Any]) -> bool:
    return bool(entry["type"] == "directory")


def _consistent(uri: str, objects: list[RemoteObject]) -> tuple[RemoteObject, ...]:
    """`objects` sorted, unless a name is there twice or is a file and a directory at once."""
    names = {item.name for item in objects}
    for item in objects:
        parts = item.name.split("/")
        parents = ("/".join(parts[:count]) for count in range(1, len(parts)))
        if any(parent in names for parent in parents) or len(names) < len(objects):
            raise invalid_argument(f"{uri} cannot be a directory: {item.name} is in the way of another name.")
    return tuple(sorted(objects, key=lambda item: item.name))


def _translated(error: Exception, verb: str, uri: str, scheme: str) -> ServingError:
    cause = " ".join(str(error).split()) or type(error).__name__
    status = _http_status(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return not_found(f"{uri} not found in the store.")
    asked = f"Could not {verb} {uri}"
    if isinstance(error, TimeoutError):
        return ServingError(Code.UNAVAILABLE, f"{asked}: no answer in time. Check the network and the store.")
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return ServingError(
            Code.RESOURCE_EXHAUSTED,
            f"{asked}: {cause}. Free some room, or name a larger place with --model_cache_dir.",
        )
    refused = isinstance(error, PermissionError) or status in (401, 403)
    if refused or "credentials" in f"{type(error).__name__} {cause}".lower():
        return ServingError(
            Code.PERMISSION_DENIED, f"{asked}: {cause}. Check the credentials: {_CREDENTIALS[scheme]}."
        )
    return ServingError(
        Code.UNAVAILABLE,
        f"{asked}: {type(error).__name__}: {cause}. Check the address, the network and the store.",
    )


def _http_status(error: Exception) -> int:
    """The status that a store answered, under the name that its driver has for it; 0 if none."""
    found = (getattr(error, name, None) for name in ("status", "status_code", "code"))
    return next((status for status in found if isinstance(status, int)), 0)


# Of what is written here; no store answers so.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_CREDENTIALS: Mapping[str, str] = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or the machine's service account",
    "az": "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and a key, token or identity",
    "http": "the netrc file",
    "https": "the netrc file",
    "memory": "none are needed",
}
