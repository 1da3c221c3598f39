"""Checks of paths on the worker, which may run on another machine than the client."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from celery import current_task

from pacs_tasks.dimse.files.regular import is_of_system
from pacs_tasks.dimse.files.storage import make_directory
from pacs_tasks.dimse.scp.limits import Limits, Space
from pacs_tasks.errors import UnreadableInputError
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.permissions import check_file, output_directory


def _here() -> str:
    """The name of the worker in `celery inspect` and Flower."""
    return f"Worker {current_task.request.hostname if current_task else socket.gethostname()}"


def readable_file(path: str) -> None:
    """Raise :class:`UnreadableInputError` unless ``path`` is a file that this worker can see."""
    if Path(path).is_dir():
        raise UnreadableInputError("The path is a directory. Name a file, or use send-dir.", path)
    if not Path(path).exists():
        raise UnreadableInputError(
            f"{_here()} cannot find the file. Check the path, or mount its storage on the worker's machine.", path
        )


def readable_directory(path: str) -> None:
    """Raise :class:`UnreadableInputError` unless ``path`` is a directory that this worker can list."""
    try:
        if is_of_system(Path(path).stat()):
            raise UnreadableInputError(
                "The directory is in /proc or /sys, with nothing to send. Name another one.", path
            )
        with os.scandir(path):
            return
    except FileNotFoundError:
        raise UnreadableInputError(
            f"{_here()} cannot find the directory. Check the path, or mount its storage on the worker's machine.", path
        ) from None
    except NotADirectoryError:
        raise UnreadableInputError("The path is not a directory. Name a directory, or use send-file.", path) from None
    except OSError as error:
        raise UnreadableInputError(
            f"{_here()} cannot list the directory ({error.strerror}). Check its permissions.", path
        ) from None


def writable_directory(path: str) -> Path:
    """Create ``path`` if necessary; where it is without links.

    Raises
    ------
    UnreadableInputError
        If files cannot or must not be written there.
    """
    directory = output_directory(path)
    try:
        make_directory(directory)
        with tempfile.TemporaryFile(dir=directory):
            return directory
    except OSError as error:
        raise UnreadableInputError(
            f"{_here()} cannot write to the directory ({error.strerror}). "
            "Check its permissions and free space, or mount its storage on the worker's machine.",
            path,
        ) from None


@lru_cache(maxsize=64)
def limits_in(directory: str) -> Limits:
    """What a remote may write to a directory by C-GET."""
    config = settings()
    return Limits(config.max_instance_bytes, space=Space(Path(directory), config.keep_free_bytes))


def files_below(directory: str) -> Iterator[tuple[str, int]]:
    """Every file below ``directory`` with its size in bytes, in the order of names.

    A directory that cannot or must not be listed counts as a file, so that the part that reads it reports the error.
    Links to directories are followed only once.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [directory]
    while waiting:
        current = waiting.pop()
        try:
            check_file(current)
        except UnreadableInputError:
            yield current, 0
            continue
        try:
            stat = Path(current).stat()
            if is_of_system(stat):
                yield current, 0
                continue
            with os.scandir(current) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            yield current, 0
            continue
        if stat.st_ino and (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        below = []
        for entry in entries:
            try:
                if entry.is_dir():
                    below.append(entry.path)
                else:
                    yield entry.path, entry.stat().st_size
            except OSError:
                yield entry.path, 0
        waiting.extend(reversed(below))
