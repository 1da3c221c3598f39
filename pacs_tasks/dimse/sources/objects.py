"""Objects at URLs (s3, gs, az, abfs, https), by fsspec. Credentials come from the environment of this process.

fsspec is imported when the first URL is named. What it and its stores raise becomes one sentence without the words of
the store, which may repeat a name or a secret.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cache
from importlib import import_module
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import IO, Any, NamedTuple

from pacs_tasks.errors import ConfigurationError, PacsTasksError, UnreadableInputError
from pacs_tasks.source import WEB

#: Bytes of one request for a part of an object.
_BLOCK = 4 << 20
#: An object up to so many bytes is read by one request, so that it is one version of it.
_ONE_REQUEST = 8 << 20
_CHUNK = 1 << 20
#: The package that fsspec needs for each scheme.
_PACKAGES = {"s3": "pacs-tasks[s3]", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs", WEB: "pacs-tasks[s3]"}
#: They log names of objects and headers of requests, some of which are secrets.
_LOGGERS = ("fsspec", "s3fs", "botocore", "aiobotocore", "aiohttp", "urllib3", "gcsfs", "adlfs", "azure")
#: A store that does not answer costs a minute, and not an hour.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}},
}
#: Errors of stores by name, since each has its own classes, and what they mean.
_NO_CREDENTIALS = frozenset(("NoCredentialsError", "PartialCredentialsError", "NoAuthTokenError"))
_CHANGED = frozenset(("FileExpired",))
_REFUSED = frozenset((401, 403))
_ABSENT = frozenset((404, 410))
_REDIRECTED = range(300, 400)


class Object(NamedTuple):
    """An object: its URL, and its size in bytes."""

    url: str
    size: int


def found(url: str) -> Object | None:
    """Give the object that a URL names; nothing if there are only objects below it, or it ends with a slash.

    Raises
    ------
    UnreadableInputError
        If there is neither, or the store does not say.
    """
    if url.endswith("/"):
        return None
    info = _info(url)
    return None if info["type"] == "directory" else Object(url, _size(url, info))


def below(url: str) -> list[Object]:
    """Give all objects below a URL, in the order of their names.

    Raises
    ------
    UnreadableInputError
        If the store does not list them.
    """
    scheme = _scheme(url)
    if scheme == WEB:
        raise UnreadableInputError("A web server lists no files. Name a file, or an archive of them.", url)
    with _errors(url):
        listed: dict[str, dict[str, Any]] = _store(url).find(url.rstrip("/") + "/", detail=True)
        start = url.partition("://")[2].rstrip("/")
        bucket = start.partition("/")[0]
        # abfs names the account only beside its container.
        own = bucket.partition("@")[0]
        named = ((f"{scheme}://{bucket}{name.removeprefix(own)}", info) for name, info in sorted(listed.items()))
        return [Object(each, _size(each, info)) for each, info in named if not each.endswith("/")]


@contextmanager
def opened(url: str) -> Iterator[IO[bytes]]:
    """Open an object whose parts are read as they are needed.

    Raises
    ------
    UnreadableInputError
        If it cannot be read, also while it is open.
    """
    with _open(url) as file:
        if not file.seekable():
            raise UnreadableInputError("This server sends no parts of a file. Download the file, and send it.", url)
        yield BufferedReader(file)


def head(url: str, length: int) -> bytes:
    """Read the first bytes of an object; as :func:`opened`."""
    with _open(url, length) as file:
        return file.read(length)


def fetch(each: Object, target: Path) -> None:
    """Write an object to a new file.

    Raises
    ------
    UnreadableInputError
        If it cannot be read whole, or has another size by now.
    OSError
        If the file cannot be written.
    """
    url, size = each
    if size <= _ONE_REQUEST and _scheme(url) != WEB:
        with _errors(url):
            # A byte more would come if there was one.
            content: bytes = _store(url).cat_file(url, start=0, end=size + 1) if size else b""
        target.write_bytes(content)
    else:
        before = _info(url)
        with _open(url) as source, target.open("xb") as file:
            shutil.copyfileobj(BufferedReader(source), file, _CHUNK)
        if _info(url) != before:
            raise _changed(url)
    if target.stat().st_size != size:
        raise _changed(url)


class _Reading(RawIOBase):
    """An object that is open, with errors in our words."""

    def __init__(self, url: str, file: Any) -> None:
        self._url, self._file = url, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def seek(self, offset: int, whence: int = 0) -> int:
        with _errors(self._url):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        with _errors(self._url):
            read: bytes = self._file.read(len(buffer))
        buffer[: len(read)] = read
        return len(read)


@contextmanager
def _open(url: str, block: int = _BLOCK) -> Iterator[_Reading]:
    with _errors(url):
        file = _store(url).open(url, "rb", block_size=block, cache_type="readahead")
    with closing(file):
        yield _Reading(url, file)


def _info(url: str) -> Mapping[str, Any]:
    with _errors(url):
        info: Mapping[str, Any] = _store(url).info(url)
        return info


def _scheme(url: str) -> str:
    return url.partition("://")[0]


def _size(url: str, info: Mapping[str, Any]) -> int:
    size = info.get("size")
    if size is None:
        raise UnreadableInputError("This server does not say how large the file is. Download it, and send it.", url)
    return int(size)


def _changed(url: str) -> UnreadableInputError:
    return UnreadableInputError("The object has changed since the job began. Send it again.", url)


def _store(url: str) -> Any:
    return _store_of(_scheme(url))


@cache
def _store_of(scheme: str) -> Any:
    """The store of a scheme; fsspec ships no annotations.

    Raises
    ------
    ConfigurationError
        If its package is not installed.
    """
    try:
        fsspec = import_module("fsspec")
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        return fsspec.filesystem(scheme, use_listings_cache=False, **_options(scheme))
    except ImportError:
        raise ConfigurationError(
            f"The worker lacks the package for {scheme}://. Install it there: pip install '{_PACKAGES[scheme]}'."
        ) from None


def _options(scheme: str) -> Mapping[str, Any]:
    if scheme != WEB:
        return _OPTIONS.get(scheme, {})

    async def check(response: Any) -> None:
        if response.status >= 300:
            raise _StatusError(response.status)

    # A redirection leads to a host that no setting allows.
    return {"allow_redirects": False, "client_kwargs": {"raise_for_status": check}}


class _StatusError(Exception):
    """A web server does not send a file."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@contextmanager
def _errors(url: str) -> Iterator[None]:
    try:
        yield
    except PacsTasksError:
        raise
    except Exception as error:  # noqa: BLE001 - each store has errors of its own
        raise _explained(url, error) from None


def _explained(url: str, error: Exception) -> UnreadableInputError:
    chain = list(_chain(error))
    names = {kind.__name__ for each in chain for kind in type(each).__mro__}
    status = next((each.status for each in chain if isinstance(each, _StatusError)), 0)
    if _code(chain) == "NoSuchBucket":
        return UnreadableInputError(
            "There is no such bucket. Check its name, and the address of the store in the worker's environment.", url
        )
    if status in _ABSENT or (isinstance(error, FileNotFoundError) and not status):
        return UnreadableInputError(
            "There is no such object, or somebody has removed it since the job began. Check the URL.", url
        )
    if names & _NO_CREDENTIALS:
        return UnreadableInputError(
            "The worker has no credentials for this store. Set them in its environment, and start it again.", url
        )
    if status in _REFUSED or isinstance(error, PermissionError):
        return UnreadableInputError(
            "The store does not let this worker read it. Check the worker's credentials and their rights.", url
        )
    if names & _CHANGED:
        return _changed(url)
    return _odd_answer(url, status, error)


def _odd_answer(url: str, status: int, error: Exception) -> UnreadableInputError:
    if status in _REDIRECTED:
        return UnreadableInputError(
            "The server redirects to another address, which workers do not follow. Name that address.", url
        )
    what = f"status {status}" if status else type(error).__name__
    return UnreadableInputError(
        f"The store does not answer as it should ({what}). Check its address, and try again.", url
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it was made from."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _code(chain: Iterable[BaseException]) -> str:
    """The code of an S3 error."""
    for each in chain:
        with suppress(AttributeError, KeyError, TypeError):
            return str(each.response["Error"]["Code"])  # type: ignore[attr-defined]  # botocore's ClientError has it
    return ""
