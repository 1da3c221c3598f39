"""A job in a ledger without any worker, and outcomes for it."""

from __future__ import annotations

from pacs_tasks.errors import PeerUnavailableError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.manifest import FileLine
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.request import StoreDirectoryRequest

REQUEST = StoreDirectoryRequest(directory="/data")
SENT = InstanceOutcome(subject="/data/a", category=InstanceCategory.SUCCESS, size=10)
FAILED = InstanceOutcome.unanswered("/data/b", PeerUnavailableError("gone"))


def planned(ledger: Ledger, total: int, job_id: str = "job") -> str:
    """Begin a job of so many files; its id."""
    ledger.open(job_id, REQUEST.task, REQUEST)
    ledger.start(job_id, "worker")
    ledger.manifest.plan(job_id, (FileLine(f"/data/{index}", 10) for index in range(total)), "worker")
    return job_id


def half_done(ledger: Ledger, job_id: str = "job") -> str:
    """Make a job that has ended: one file was sent, one failed."""
    planned(ledger, 2, job_id)
    ledger.record(job_id, 0, SENT)
    assert ledger.record(job_id, 1, FAILED).ended
    return job_id
