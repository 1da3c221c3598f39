"""The job that a request is about: one that has ended and that sent something."""

from __future__ import annotations

from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.request import StoreDirectoryRequest, StoreRequest
from pacs_tasks.tasks.engine.base import ledger

_SENDING = frozenset({StoreRequest.task, StoreDirectoryRequest.task})


def instances_sent(job_id: str) -> Instances:
    """What a job has sent.

    Raises
    ------
    JobNotFoundError
        If there is no such job.
    InvalidRequestError
        If it is none that sends, if it is still at it, or if it has sent nothing.
    """
    progress = ledger().progress(job_id)
    if progress.task not in _SENDING:
        raise InvalidRequestError(f"job {job_id} sends nothing; name a job of send-file or send-dir")
    if not progress.state.finished:
        raise InvalidRequestError(f"job {job_id} is still {progress.state}; wait for its end")
    if not progress.counters.done:
        raise InvalidRequestError(f"job {job_id} has sent nothing, so there is nothing to ask about")
    return Instances(ledger(), job_id)
