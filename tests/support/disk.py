"""A disk that is full, for this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

needs_limits = pytest.mark.skipif(sys.platform != "linux", reason="a limit on file sizes stands for a full disk: Linux")


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """Fail every write of this process beyond ``size`` bytes of a file, as a full disk would."""
    assert os.name == "posix"
    import resource
    import signal

    before, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, action)
