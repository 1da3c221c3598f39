"""A disk that is full for a while: a small one in memory where the system lets us mount it, else a limit on files."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

_SIZE: Final = 16 << 20
#: Bytes of a file of a process that may write no more: no instance is as small.
_LITTLE: Final = 1024


class Disk:
    """A directory whose disk can be filled.

    Parameters
    ----------
    stack
        Unmounts it.
    directory
        Must be there and empty.
    writers
        The processes that write there, for systems on which nothing may be mounted.
    """

    def __init__(self, stack: ExitStack, directory: Path, writers: Callable[[], list[int]]) -> None:
        self._directory, self._writers = directory, writers
        self._limited: list[int] = []
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(directory)]
        self.mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
        if self.mounted:
            stack.callback(subprocess.run, ["umount", "--lazy", str(directory)], check=False)

    @property
    def _ballast(self) -> Path:
        return self._directory / ".ballast"

    def fill(self) -> None:
        """From now on there is no room for another instance."""
        if not self.mounted:
            self._limited = self._writers()
            self._limit(_LITTLE)
            return
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def make_room(self) -> None:
        """There is room again."""
        if self.mounted:
            self._ballast.unlink()
        else:
            self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        for pid in self._limited:
            with suppress(ProcessLookupError):
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
