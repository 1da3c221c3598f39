"""What a job does over time: outcomes in the ledger, and connections at its peer, ten times a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from pacs_tasks import Job
from tests.benchmarks.measuring import BenchError
from tests.benchmarks.results import Sample
from tests.support.ports import connections

#: Seconds between two samples.
_PACE: Final = 0.1


class Timeline:
    """A thread that takes samples until it is stopped."""

    def __init__(self, job: Job, port: int) -> None:
        self._job, self._port = job, port
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="timeline", daemon=True)
        self.samples: list[Sample] = []
        self.finished = False

    @property
    def now(self) -> float:
        """Seconds since the begin."""
        return time.monotonic() - self._began

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_PACE):
            progress = self._job.progress()
            self.samples.append(
                Sample(at=self.now, recorded=progress.counters.recorded, associations=connections(self._port))
            )
            self.finished = progress.state.finished

    def wait(self, condition: Callable[[Sample], bool], limit: float) -> Sample | None:
        """The first sample from now on that fulfils a condition; None if none does within ``limit`` seconds."""
        seen, end = len(self.samples), self.now + limit
        while self.now < end:
            time.sleep(_PACE / 2)
            for sample in self.samples[seen:]:
                seen += 1
                if condition(sample):
                    return sample
        return None

    def run(self, until: float) -> None:
        """Wait until so many seconds after the begin, or the end of the job."""
        while self.now < until and not self.finished:
            time.sleep(_PACE / 2)


@contextmanager
def timeline(job: Job, port: int) -> Iterator[Timeline]:
    """Watch a job and the connections at a port of this machine during the block."""
    watching = Timeline(job, port)
    watching.start()
    try:
        yield watching
    finally:
        watching.stop()


def rate(samples: Sequence[Sample], begin: float, end: float) -> float:
    """Outcomes a second between two moments.

    Raises
    ------
    BenchError
        If there are no samples of that time.
    """
    within = [each for each in samples if begin <= each.at <= end]
    if len(within) < 2:
        raise BenchError(f"nothing was seen between the seconds {begin:g} and {end:g} of a job")
    return (within[-1].recorded - within[0].recorded) / (within[-1].at - within[0].at)


def associations(samples: Sequence[Sample], begin: float, end: float) -> float:
    """Connections at the peer between two moments, on average."""
    within = [each.associations for each in samples if begin <= each.at <= end]
    return sum(within) / len(within) if within else 0.0
