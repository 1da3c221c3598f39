"""The receiver's directory: what unsolicited instances may take there, and its cleaning.

Anybody who may call can send unsolicited instances, so they must not keep out what a job has requested. They have a
quota, and need twice the reserve of free space. What counts is the space on the disk: a small instance takes a block,
and may take two for directories of its own.

An instance that no job has collected moves to the unsolicited ones and is not removed: another sender may have sent it
while a job expected its series, and has a success status for it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pacs_tasks.dimse.files import final_name
from pacs_tasks.dimse.files.storage import UNFINISHED
from pacs_tasks.dimse.scp.limits import LimitError, Space
from pacs_tasks.dimse.scp.storage_scp import IDLE
from pacs_tasks.fleet.receivers import INCOMING, UNSOLICITED
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

#: Seconds between two rounds at most; also at most this part of the time for which instances are kept.
_ROUND = 600.0
_PART_OF_TIME = 10
#: Seconds without a write after which a file is abandoned: no operation takes longer.
_ABANDONED = IDLE.operation
#: Seconds that a round may continue once the receiver ends.
_END = 5.0


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
            self._used -= size + _BLOCK * _remove_empty(Path(path).parent, self._directory)
            dropped += 1
        logger.warning("%d unsolicited instances were removed, the oldest first: their quota is used up.", dropped)


def _size(found: os.stat_result) -> int:
    """Bytes that a file takes on the disk, in whole blocks. Some file systems know their blocks only later."""
    blocks = math.ceil(found.st_size / _BLOCK) * _BLOCK
    # Windows has no blocks.
    return max(blocks, getattr(found, "st_blocks", 0) * 512, _BLOCK)


def _entries(directory: Path) -> Iterator[tuple[os.DirEntry[str], bool]]:
    """Yield the directories and regular files below a directory, and whether each is a file. Links are not followed."""
    for each in _listed(directory):
        if each.is_dir(follow_symlinks=False):
            yield each, False
            yield from _entries(Path(each.path))
        elif each.is_file(follow_symlinks=False):
            yield each, True


class Cleanup:
    """A thread that cleans at its start and then repeatedly.

    Unsolicited instances stay: nobody else may have them.

    Parameters
    ----------
    directory
        The receiver's directory.
    keep
        Seconds after which no job will collect an instance in ``incoming``.
    """

    def __init__(self, directory: Path, keep: float) -> None:
        self._directory, self._keep = directory, keep
        self._ending = threading.Event()
        # A file server may hang; the receiver must be able to end all the same.
        self._thread = threading.Thread(target=self._run, name="cleanup", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join(_END)

    def _run(self) -> None:
        while True:
            try:
                self.clean()
            except OSError as error:
                # The name of the directory stays out of the log: it may be that of a study.
                logger.warning("The receiver's directory could not be cleaned: %s.", error.strerror)
            if self._ending.wait(min(_ROUND, self._keep / _PART_OF_TIME)):
                return

    def clean(self) -> None:
        """Clean once."""
        # Unfinished files are in the directory itself, wherever they go afterwards.
        parts = [
            each for each in _files(self._directory) if each.name.startswith(".") and each.name.endswith(UNFINISHED)
        ]
        abandoned = self._clear(parts, _ABANDONED, Path.unlink)
        late = 0
        incoming, unsolicited = self._directory / INCOMING, self._directory / UNSOLICITED
        for study in _directories(incoming):
            for series in _directories(study):
                aside = unsolicited / study.name / series.name
                late += self._clear(_files(series), self._keep, partial(_set_aside, self._directory, aside))
                _remove_empty(series, study)
            _remove_empty(study, incoming)
        if late or abandoned:
            logger.info(
                "Set aside %d instances that no job had collected, and removed %d unfinished files.", late, abandoned
            )

    def _clear(self, files: list[os.DirEntry[str]], age: float, away: Callable[[Path], None]) -> int:
        """Move or remove files without a write for ``age`` seconds; return how many there were."""
        cleared = 0
        for each in files:
            if self._ending.is_set():
                break
            # A job, or another receiver's cleaning, may move it at this moment.
            with contextlib.suppress(FileNotFoundError):
                if time.time() - each.stat(follow_symlinks=False).st_mtime > age:
                    away(Path(each.path))
                    cleared += 1
        return cleared


def _set_aside(root: Path, directory: Path, path: Path) -> None:
    """Move an instance to the unsolicited ones; an older file with other content is kept beside it."""
    final_name.place(path, root, directory / path.name)


def _files(directory: Path) -> list[os.DirEntry[str]]:
    return [each for each in _listed(directory) if not each.is_dir(follow_symlinks=False)]


def _directories(directory: Path) -> Iterator[Path]:
    return (Path(each.path) for each in _listed(directory) if each.is_dir(follow_symlinks=False))


def _listed(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _remove_empty(directory: Path, top: Path) -> int:
    """Remove a directory, and those between it and ``top``, if nothing is left in them; give how many there were.

    If an instance comes at this moment, the directory stays or is made again.
    """
    removed = 0
    with contextlib.suppress(OSError):
        while directory != top:
            directory.rmdir()
            directory, removed = directory.parent, removed + 1
    return removed
