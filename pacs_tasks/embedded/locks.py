"""File locks as proof of life.

The kernel drops a ``flock`` when its last holder ends, however it ends. So a lock tells what a pid in a file cannot:
whether the process that wrote it still lives. We signal a pid only while the lock beside it is held.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

if sys.platform != "win32":
    import fcntl

#: Seconds between two looks at a lock that somebody else holds.
_PAUSE = 0.02


class Lock:
    """An advisory lock on a file. It ends with :meth:`close`, or with the process."""

    def __init__(self, path: Path) -> None:
        # O_RDWR creates no inheritable descriptor (PEP 446): children do not keep our locks by accident.
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def take(self, *, shared: bool = False, timeout: float = 0.0) -> bool:
        """Take the lock within ``timeout`` seconds; false if others hold it that long."""
        operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
        deadline = time.monotonic() + timeout
        pause = threading.Event()
        while True:
            try:
                fcntl.flock(self.fd, operation)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                pause.wait(_PAUSE)
            else:
                return True

    def write(self, text: str) -> None:
        """Put ``text`` into the locked file."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, text.encode(), 0)

    def close(self) -> None:
        """Give the descriptor back, and with its last copy the lock."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def is_held(path: Path, *, shared: bool = True) -> bool:
    """Whether a living process holds the lock on ``path``; with ``shared`` false, shared holders count too."""
    if not path.exists():
        return False
    with Lock(path) as lock:
        return not lock.take(shared=shared)


def holder(path: Path) -> int | None:
    """The pid that the living holder of the lock on ``path`` wrote into it."""
    try:
        pid = int(path.read_text())
    except (OSError, ValueError):
        return None
    return pid if pid > 1 and is_held(path) else None


@contextmanager
def taken(path: Path, timeout: float) -> Iterator[bool]:
    """Hold the lock on ``path`` for a block of code; the block learns whether it could be had."""
    with Lock(path) as lock:
        yield lock.take(timeout=timeout)
