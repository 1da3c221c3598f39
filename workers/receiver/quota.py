"""The space that unsolicited instances may take: up to a quota, and up to twice the reserve of free space.

Anybody who may call can send them, so they must not keep out what a job has requested. What counts is the space on the
disk: a small instance takes a block, and may take two for directories of its own.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pacs_tasks.dimse.scp.limits import LimitError, Space
from pacs_tasks.settings import WhenFull

logger = logging.getLogger("pacs_tasks.receiver")

#: Seconds after which the directory is measured again: other processes write to it, and people remove files.
_MEASURED_FOR = 60.0
#: The same once the quota is used up: a crowd of instances must not have everything measured for each of them.
_MEASURED_FOR_WHEN_FULL = 5.0
#: Dropping the oldest stops at this part of the quota, so that it happens rarely.
_DROPPED_TO = 0.9
_RESERVES = 2
#: Bytes of a block, which the smallest file and each directory take.
_BLOCK = 4096
#: Directories that an instance may need: those of its study and its series.
_OWN_DIRECTORIES = 2


class UnsolicitedQuota:
    """What unsolicited instances may take. Thread-safe.

    Parameters
    ----------
    directory
        Where they are.
    quota
        Bytes that they may take, with their directories; None is anything.
    space
        The free space of their file system.
    """

    def __init__(self, directory: Path, quota: int | None, policy: WhenFull, space: Space) -> None:
        self._directory, self._quota, self._policy, self._space = directory, quota, policy, space
        self._lock = threading.Lock()
        self._used, self._measured = 0, float("-inf")

    def admits(self, path: Path) -> bool:
        """Whether the instance in this file, which is complete, may stay; older ones may be dropped for it."""
        try:
            # It is on disk already.
            self._space.take(0, _RESERVES)
        except LimitError:
            return False
        if self._quota is None:
            return True
        # Whether its directories are there already is known at the next measurement.
        size = _size(path.stat()) + _OWN_DIRECTORIES * _BLOCK
        with self._lock:
            full = self._used + size > self._quota
            if time.monotonic() - self._measured > (_MEASURED_FOR_WHEN_FULL if full else _MEASURED_FOR):
                self._measure()
            if self._used + size > self._quota and self._policy is WhenFull.DROP_OLDEST and size <= self._quota:
                self._drop(self._quota * _DROPPED_TO - size)
            if self._used + size > self._quota:
                return False
            self._used += size
            return True

    def _measure(self) -> None:
        found = (_size(each.stat()) if is_file else _BLOCK for each, is_file in _entries(self._directory))
        self._used, self._measured = sum(found), time.monotonic()

    def _drop(self, wanted: float) -> None:
        """Remove the oldest files until the rest takes no more than ``wanted`` bytes."""
        self._measure()
        found = ((each.stat(), each.path) for each, is_file in _entries(self._directory) if is_file)
        dropped = 0
        for _, size, path in sorted((stat.st_mtime_ns, _size(stat), path) for stat, path in found):
            if self._used <= max(wanted, 0):
                break
            # Another process may have removed it.
            Path(path).unlink(missing_ok=True)
            self._used -= size + _BLOCK * self._remove_empty(Path(path).parent)
            dropped += 1
        logger.warning("%d unsolicited instances were removed, the oldest first: their quota is used up.", dropped)

    def _remove_empty(self, directory: Path) -> int:
        """Remove a directory, and those above it, if nothing is left in them; give how many there were.

        If an instance comes at this moment, the directory stays or is made again.
        """
        removed = 0
        with contextlib.suppress(OSError):
            while directory != self._directory:
                directory.rmdir()
                directory, removed = directory.parent, removed + 1
        return removed


def _size(found: os.stat_result) -> int:
    """Bytes that a file takes on the disk, in whole blocks. Some file systems know their blocks only later."""
    blocks = math.ceil(found.st_size / _BLOCK) * _BLOCK
    # Windows has no blocks.
    return max(blocks, getattr(found, "st_blocks", 0) * 512, _BLOCK)


def _entries(directory: Path) -> Iterator[tuple[os.DirEntry[str], bool]]:
    """Yield the directories and regular files below a directory, and whether each is a file. Links are not followed."""
    try:
        with os.scandir(directory) as entries:
            found = list(entries)
    except FileNotFoundError:
        return
    for each in found:
        if each.is_dir(follow_symlinks=False):
            yield each, False
            yield from _entries(Path(each.path))
        elif each.is_file(follow_symlinks=False):
            yield each, True
