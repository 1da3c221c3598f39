"""The names of a job's keys in Redis, and what its fields mean."""

from __future__ import annotations

import json
from collections.abc import Mapping

import redis
from pydantic import ValidationError

from pacs_tasks.errors import InvalidRequestError, JobNotFoundError, from_record
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.outcome import Counters
from pacs_tasks.outcome.progress import JobState, Progress
from pacs_tasks.request import BULK_APART, AnyRequest

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


def touch(client: redis.Redis, job_id: str, keep: int) -> None:
    """A job is kept for ``keep`` seconds after its last change."""
    for part in ("", *KEPT):
        client.expire(key(job_id, part), keep)
    client.expire(JOBS, keep)


def texts_of(request: AnyRequest | None) -> tuple[str, str]:
    """A request as it is kept: without its field that may be large, and that field alone, which few read."""
    if request is None:
        return "", ""
    bulk = request.model_dump_json(include={request.bulk}, exclude_none=True) if request.bulk else ""
    return request.model_dump_json(exclude_none=True, exclude={request.bulk}), bulk


def request_of(job_id: str, task: str, text: str, bulk: str | None) -> AnyRequest:
    """The request that :func:`texts_of` gave, the field that may be large empty without its text.

    Raises
    ------
    InvalidRequestError
        If another version wrote it.
    """
    try:
        found = OPERATIONS[task].request.model_validate_json(text, context=BULK_APART)
        return found if bulk is None else type(found).model_validate({**json.loads(text), **json.loads(bulk)})
    except (KeyError, ValidationError):
        raise InvalidRequestError(
            f"the request of job {job_id} is of another version of pacs-tasks; ask anew"
        ) from None


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
        return str(OPERATIONS[task].request.model_validate_json(request, context=BULK_APART).remote)
    except (KeyError, ValidationError):
        return ""
