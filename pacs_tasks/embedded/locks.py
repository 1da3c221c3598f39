"""File locks that show which processes are alive.

The kernel releases a ``flock`` when its last holder ends, however it ends. A pid in a file does not show whether its
process is alive, so a pid gets a signal only while the lock on its file is held.
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

#: Seconds between two attempts at a lock that another process holds.
_PAUSE = 0.02


class Lock:
    """An advisory lock on a file. It ends with :meth:`close` or with the process."""

    def __init__(self, path: Path) -> None:
        # The descriptor is not inheritable (PEP 446): children do not keep our locks by accident.
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def acquire(self, *, shared: bool = False, timeout: float = 0.0) -> bool:
        """Acquire the lock within ``timeout`` seconds; false if another process holds it."""
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
        """Write ``text`` to the locked file."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, text.encode(), 0)

    def close(self) -> None:
        """Close the descriptor. Its last copy releases the lock."""
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
    """Report whether a process holds the lock on ``path``; with ``shared`` false, shared holders count too."""
    if not path.exists():
        return False
    with Lock(path) as lock:
        return not lock.acquire(shared=shared)


def holder(path: Path) -> int | None:
    """Return the pid in ``path`` if a process holds the lock on it."""
    try:
        pid = int(path.read_text())
    except (OSError, ValueError):
        return None
    return pid if pid > 1 and is_held(path) else None


@contextmanager
def holding(path: Path, timeout: float) -> Iterator[bool]:
    """Hold the lock on ``path`` for a block of code. Yields whether it was acquired."""
    with Lock(path) as lock:
        yield lock.acquire(timeout=timeout)
