"""The names of a job's keys in Redis, and what its fields mean."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from pacs_tasks.errors import JobNotFoundError, from_record
from pacs_tasks.outcome import Counters
from pacs_tasks.progress import JobState, Progress
from pacs_tasks.request import BULK_APART, REQUESTS

_PREFIX = "pacs_tasks"
#: The index of all jobs.
JOBS = f"{_PREFIX}:jobs"
#: What a job has beside its own key, and what of it is kept for as long as the job.
KEPT = ("manifest", "studies", "ways", "recorded", "present", "receipts", "problems", "series", "commitments",
        "bulk", "matches")  # fmt: skip
PARTS = (*KEPT, "claims", "losses", "attempts")
_COUNTED = tuple(Counters.model_fields)
#: The fields of a job that :func:`progress_of` reads.
SEEN = ("task", "request", "state", "created", "started", "finished", "cancel", "attempt", "worker", "error",
        "error_type", "error_subject", "waiting", "waiting_since", "waiting_reason", *_COUNTED)  # fmt: skip
_LONGEST_ID = 255
_LONGEST_SHOWN = 64


def key(job_id: str, part: str = "") -> str:
    """The key of a job, or of a part of it."""
    return f"{_PREFIX}:job:{job_id}:{part}" if part else f"{_PREFIX}:job:{job_id}"


def transaction(transaction_uid: str) -> str:
    """The key that says to which job a request for storage commitment belongs."""
    return f"{_PREFIX}:commitment:{transaction_uid}"


def asked(job_id: str) -> str:
    """The key of a job that somebody names: any text that Celery takes, but not the name of another key of ours.

    Raises
    ------
    JobNotFoundError
        If no job can have this id.
    """
    if not job_id.isprintable() or len(job_id) > _LONGEST_ID or job_id.rpartition(":")[2] in PARTS:
        raise not_found(job_id)
    return key(job_id)


def not_found(job_id: str) -> JobNotFoundError:
    """The error for an id that no job has."""
    shown = job_id if len(job_id) < _LONGEST_SHOWN else f"{job_id[:_LONGEST_SHOWN]}..."
    return JobNotFoundError(f"there is no job {shown!r}; `pacs-tasks jobs` lists those that are known")


def progress_of(job_id: str, fields: Mapping[str, str | None]) -> Progress:
    """A look at a job, from its fields.

    Raises
    ------
    JobNotFoundError
        If it has none.
    """
    task, state, created = fields["task"], fields["state"], fields["created"]
    if task is None or state is None or created is None:
        raise not_found(job_id)
    error = ""
    if fields["error_type"]:
        error = str(from_record(fields["error_type"], fields["error"] or "", fields["error_subject"] or ""))
    request = fields["request"]
    return Progress(
        job_id=job_id,
        task=task,
        state=JobState(state),
        counters=Counters(**{name: int(fields[name] or 0) for name in _COUNTED}),
        created=float(created),
        started=float(fields["started"]) if fields["started"] else None,
        finished=float(fields["finished"]) if fields["finished"] else None,
        cancel_requested=fields["cancel"] == "1",
        attempt=int(fields["attempt"] or 1),
        worker=fields["worker"] or "",
        error=error,
        remote=_called(task, request) if request else "",
        waiting_for=fields["waiting"] or "",
        waiting_since=float(fields["waiting_since"]) if fields["waiting_since"] else None,
        waiting_reason=fields["waiting_reason"] or "",
    )


def _called(task: str, request: str) -> str:
    """Whom a job calls; empty where another version wrote the request, which must not hide the other jobs."""
    try:
        return str(REQUESTS[task].model_validate_json(request, context=BULK_APART).remote)
    except (KeyError, ValidationError):
        return ""
