"""Whether this worker has been told to end.

A warm shutdown of Celery waits for running tasks, and a part may have minutes of work: it ends behind the file that is
under way instead, and what is left goes back on the queue for another worker.
"""

from __future__ import annotations

import mmap

#: One byte that the children of a prefork pool share with their parent, which alone hears the signal.
_told = mmap.mmap(-1, 1)


class WorkerStoppingError(Exception):
    """The worker ends; what is left of the part is for another one."""


def stop() -> None:
    """Tell every task of this worker."""
    _told[0] = 1


def stopping() -> bool:
    """Whether this worker ends."""
    return bool(_told[0])
