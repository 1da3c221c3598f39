"""Paths as people type them, and as a worker understands them."""

from __future__ import annotations

import os
from pathlib import Path

from pacs_tasks.cli.output.terminal import readable
from pacs_tasks.errors import UnreadableInputError


def absolute(path: str) -> str:
    """``path`` as a worker understands it, which has another current directory.

    Raises
    ------
    UnreadableInputError
        If it cannot be told to a worker since it is no Unicode.
    """
    found = os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - Path.absolute() leaves `..` in
    if readable(found) != found:
        raise UnreadableInputError("this path has bytes that are no UTF-8; name a directory above it", readable(found))
    return found


def local_directory(path: str) -> str:
    """An existing directory of this machine, absolute.

    Raises
    ------
    UnreadableInputError
        If there is none.
    """
    found = Path(absolute(path))
    if not found.exists():
        raise UnreadableInputError("there is no such directory; check the path", str(found))
    if not found.is_dir():
        raise UnreadableInputError("this is a file, not a directory; use send-file for one file", str(found))
    return str(found)


def local_file(path: str) -> str:
    """An existing file of this machine, absolute.

    Raises
    ------
    UnreadableInputError
        If there is none.
    """
    found = Path(absolute(path))
    if not found.exists():
        raise UnreadableInputError("there is no such file; check the path", str(found))
    if found.is_dir():
        raise UnreadableInputError("this is a directory, not a file; use send-dir for all of its files", str(found))
    return str(found)


def local_output(path: str) -> str:
    """A directory of this machine that exists or can be made, absolute.

    Raises
    ------
    UnreadableInputError
        If something is in its way or it may not be written.
    """
    found = Path(absolute(path))
    nearest = next(parent for parent in (found, *found.parents) if parent.exists())
    if not nearest.is_dir():
        raise UnreadableInputError("this is a file, not a directory; name another --output-dir", str(nearest))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UnreadableInputError("we may not write here; check its permissions or name another", str(nearest))
    return str(found)
