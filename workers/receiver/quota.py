"""The space that unsolicited instances may take: up to a quota, and up to twice the reserve of free space.

Anybody who may call can send them, so they must not keep out what a job has requested.
"""

from __future__ import annotations

import logging
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
#: Dropping the oldest stops at this part of the quota, so that it happens rarely.
_DROPPED_TO = 0.9
_RESERVES = 2


class UnsolicitedQuota:
    """What unsolicited instances may take. Thread-safe.

    Parameters
    ----------
    directory
        Where they are.
    quota
        Bytes that they may take; None is anything.
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
        size = path.stat().st_size
        with self._lock:
            if time.monotonic() - self._measured > _MEASURED_FOR or self._used + size > self._quota:
                self._measure()
            if self._used + size > self._quota and self._policy is WhenFull.DROP_OLDEST and size <= self._quota:
                self._drop(self._quota * _DROPPED_TO - size)
            if self._used + size > self._quota:
                return False
            self._used += size
            return True

    def _measure(self) -> None:
        self._used, self._measured = sum(each.stat().st_size for each in _files(self._directory)), time.monotonic()

    def _drop(self, wanted: float) -> None:
        """Remove the oldest files until the rest takes no more than ``wanted`` bytes."""
        files = sorted((each.stat().st_mtime_ns, each.stat().st_size, each.path) for each in _files(self._directory))
        dropped = 0
        for _, size, path in files:
            if self._used <= max(wanted, 0):
                break
            # Another process may have removed it.
            Path(path).unlink(missing_ok=True)
            self._used -= size
            dropped += 1
        logger.warning("%d unsolicited instances were removed, the oldest first: their quota is used up.", dropped)


def _files(directory: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the regular files below a directory. Links are not followed."""
    try:
        with os.scandir(directory) as entries:
            found = list(entries)
    except FileNotFoundError:
        return
    for each in found:
        if each.is_dir(follow_symlinks=False):
            yield from _files(Path(each.path))
        elif each.is_file(follow_symlinks=False):
            yield each
