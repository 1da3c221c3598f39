"""What the processes of a worker hold in memory while they work."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.benchmarks.measuring import BenchError
from tests.support.processes import Process

#: Seconds between two looks.
_PACE: Final = 0.005


class Peak:
    """The most that one child of a worker held, in MB: of its own, and of mapped files."""

    def __init__(self, worker: Process) -> None:
        self._worker = worker.pid
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="memory", daemon=True)
        self.anonymous = self.mapped = 0.0

    def start(self) -> None:
        self._watcher.start()

    def stop(self) -> None:
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        while True:
            for child in _children(self._worker):
                # A child may end between two looks.
                with suppress(OSError, KeyError, ValueError):
                    held = _status(child)
                    self.anonymous = max(self.anonymous, held["RssAnon"])
                    self.mapped = max(self.mapped, held["RssFile"])
            if self._ended.wait(_PACE):
                return


def _children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _status(process: int) -> dict[str, float]:
    """Sizes in a process's status, which are in KiB there, in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 / 1e6 for name, value in pairs}


@contextmanager
def peak_of(worker: Process) -> Iterator[Peak]:
    """Look at a worker's children again and again during the block.

    Raises
    ------
    BenchError
        On systems that do not tell.
    """
    if sys.platform != "linux":
        raise BenchError("the memory of a worker is read from /proc, which this system does not have")
    peak = Peak(worker)
    peak.start()
    try:
        yield peak
    finally:
        peak.stop()
