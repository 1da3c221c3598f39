"""The states of many jobs, as whoever waits for them reads them: with one command for a thousand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from pacs_tasks.ledger.keys import not_found
from pacs_tasks.outcome import JobState

_CHUNK = 1_000


def chunks(job_ids: Iterable[str]) -> Iterator[list[str]]:
    """Give these ids a thousand at a time."""
    rest = iter(job_ids)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


class JobView(NamedTuple):
    """As much of a job as a wait for many jobs reads. ``mark`` changes whenever somebody works on it."""

    state: JobState
    cancel_requested: bool
    mark: str

    @property
    def finished(self) -> bool:
        return self.state.finished

    @property
    def cancelling(self) -> bool:
        """Whether the job was cancelled and has not ended, perhaps since a worker died with a claim on it."""
        return self.cancel_requested and not self.state.finished


def read_views(job_ids: Iterable[str], reply: Iterable[Sequence[str]]) -> dict[str, JobView]:
    """Read the reply to the script ``states``.

    Raises
    ------
    JobNotFoundError
        If one of the jobs has no record.
    """
    found = {}
    for job_id, (state, cancel, mark) in zip(job_ids, reply, strict=True):
        if not state:
            raise not_found(job_id)
        found[job_id] = JobView(JobState(state), cancel == "1", mark)
    return found
