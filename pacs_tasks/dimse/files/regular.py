"""Open a file to read it, and nothing else that a path may name.

Reading a pipe takes from it what somebody else needs, a device may block or rewind, and ``/dev/fd/5`` is whatever this
process has open. A worker reads paths that others name, so it opens regular files only.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from functools import cache
from io import FileIO
from pathlib import Path

_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def open_regular(path: str, *, flags: int = 0, dir_fd: int | None = None) -> int:
    """Open a regular file for reading; return its descriptor.

    The path is checked before it is opened, because opening a pipe already wakes the process that waits at its other
    end, and the descriptor afterwards, because the path may name something else by then.

    Parameters
    ----------
    flags
        More flags of ``open``, such as ``O_NOFOLLOW``.
    dir_fd
        The directory of a relative path.

    Raises
    ------
    OSError
        If it cannot be opened, or is not a regular file. A directory raises ``IsADirectoryError``.
    """
    nofollow = bool(flags & getattr(os, "O_NOFOLLOW", 0))
    _check(os.stat(path, dir_fd=dir_fd, follow_symlinks=not nofollow), path)
    descriptor = os.open(path, _READ | flags, dir_fd=dir_fd)
    try:
        _check(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: str) -> FileIO:
    """Open a regular file as :func:`open_regular`; it closes itself as any file does."""
    return FileIO(open_regular(path), closefd=True)


def is_regular(path: str) -> bool:
    """Whether a path names a regular file, if only through a link."""
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except (OSError, ValueError):
        return False


@cache
def _system_devices() -> frozenset[int]:
    """The devices of what the system shows as files (Linux): its directories have no end, and nothing to send."""
    found = set()
    for name in ("/proc", "/sys"):
        with suppress(OSError):
            found.add(Path(name).stat().st_dev)
    return frozenset(found - {Path("/").stat().st_dev})


def is_of_system(found: os.stat_result) -> bool:
    """Whether a file or directory is in /proc or /sys."""
    return found.st_dev in _system_devices()


def _check(found: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(found.st_mode) and is_of_system(found):
        raise IsADirectoryError(errno.EISDIR, "it is a directory of the system, not of files", path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe, a device or a socket, not a regular file", path)
