"""Clean the receiver's directory: instances that no job has collected, and unfinished files of killed processes.

An instance that no job has collected moves to the unsolicited ones and is not removed: another sender may have sent it
while a job expected its series, and has a success status for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pacs_tasks.dimse.files import final_name
from pacs_tasks.dimse.files.storage import UNFINISHED
from pacs_tasks.dimse.scp.storage_scp import IDLE
from pacs_tasks.fleet.receivers import INCOMING, UNSOLICITED

logger = logging.getLogger("pacs_tasks.receiver")

#: Seconds between two rounds at most; also at most this part of the time for which instances are kept.
_ROUND = 600.0
_PART_OF_TIME = 10
#: Seconds without a write after which a file is abandoned: no operation takes longer.
_ABANDONED = IDLE.operation
#: Seconds that a round may continue once the receiver ends.
_END = 5.0


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
                _remove_if_empty(series)
            _remove_if_empty(study)
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


def _remove_if_empty(directory: Path) -> None:
    """Remove a directory. If an instance comes at this moment, the directory stays or is created again."""
    with contextlib.suppress(OSError):
        directory.rmdir()
