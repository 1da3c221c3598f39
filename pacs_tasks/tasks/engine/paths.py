"""Paths as a worker sees them: it may run on another machine than the one who asked."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from celery import current_task

from pacs_tasks.dimse.files.storage import make_directory
from pacs_tasks.errors import UnreadableInputError


def _here() -> str:
    """The worker, as `celery inspect` and Flower name it."""
    return f"worker {current_task.request.hostname if current_task else socket.gethostname()}"


def readable_file(path: str) -> None:
    """Raise :class:`UnreadableInputError` unless ``path`` is a file that this worker can see."""
    if os.path.isdir(path):  # noqa: PTH112 - the path may hold bytes that pathlib would not change either
        raise UnreadableInputError("this is a directory; name a file, or use send-dir", path)
    if not os.path.exists(path):  # noqa: PTH110
        raise UnreadableInputError(
            f"{_here()} sees no such file; check the path, or mount that storage on the worker's machine", path
        )


def readable_directory(path: str) -> None:
    """Raise :class:`UnreadableInputError` unless ``path`` is a directory that this worker can list."""
    try:
        with os.scandir(path):
            return
    except FileNotFoundError:
        reason = f"{_here()} sees no such directory; check the path, or mount that storage on the worker's machine"
    except NotADirectoryError:
        reason = "this is no directory; name a directory, or use send-file"
    except OSError as error:
        reason = f"{_here()} cannot list this directory ({error.strerror}); check its permissions"
    raise UnreadableInputError(reason, path)


def writable_directory(path: str) -> None:
    """Make ``path`` if it is not there, and raise :class:`UnreadableInputError` unless files can be written there."""
    try:
        make_directory(Path(path))
        with tempfile.TemporaryFile(dir=path):
            return
    except OSError as error:
        raise UnreadableInputError(
            f"{_here()} cannot write to this directory ({error.strerror}); "
            "check its permissions and free space, or mount that storage on the worker's machine",
            path,
        ) from None


def files_below(directory: str) -> Iterator[tuple[str, int]]:
    """Every file below ``directory`` with its size in bytes, in the order of their names.

    A directory that cannot be listed is given as if it were a file, so that the part that tries to read it reports
    it; links to directories are followed once only.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [directory]
    while waiting:
        current = waiting.pop()
        try:
            stat = os.stat(current)  # noqa: PTH116
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
