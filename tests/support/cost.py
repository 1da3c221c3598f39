"""What a process spends on a hostile peer: seconds, and memory at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.processes import Process

_MIB = 1 << 20


def memory(process: Process, field: str = "VmRSS") -> int:
    """Bytes that the kernel counts for a process: those that it has now (VmRSS), or had at most (VmHWM)."""
    status = Path(f"/proc/{process.pid}/status").read_text("ascii")
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) << 10


@contextmanager
def bounded(process: Process, seconds: float, growth: int, report: Callable[[str, object], None]) -> Iterator[None]:
    """Let a process spend so many seconds and bytes on the block; the summary of the tests shows what it was.

    Parameters
    ----------
    report
        The ``record_property`` of the test.
    """
    # This begins to count the most anew; where it is not allowed, the most is that since the start of the process.
    with suppress(OSError):
        Path(f"/proc/{process.pid}/clear_refs").write_text("5", "ascii")
    before, begun = memory(process), time.monotonic()
    yield
    took, most = time.monotonic() - begun, memory(process, "VmHWM")
    report("cost", f"{took:.2f} s; memory {before / _MIB:.0f} MiB before, at most {most / _MIB:.0f}")
    assert took < seconds
    assert most - before < growth
