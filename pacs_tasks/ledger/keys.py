"""The keys of a job in Redis, and how its request and progress are read from its fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pacs_tasks.errors import InvalidRequestError, JobNotFoundError, from_record
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.outcome import Counters
from pacs_tasks.outcome.progress import JobState, Progress
from pacs_tasks.request import BULK_APART, AnyRequest

if TYPE_CHECKING:
    import redis

_PREFIX = "pacs_tasks"
#: The index of all jobs.
JOBS = f"{_PREFIX}:jobs"
#: The keys of a job beside its own: those kept as long as the job, and all.
KEPT = ("manifest", "studies", "ways", "recorded", "present", "receipts", "problems", "series", "commitments",
        "bulk", "matches")  # fmt: skip
PARTS = (*KEPT, "claims", "losses", "attempts")
_COUNTED = tuple(Counters.model_fields)
#: The fields of a job that :func:`progress_of` reads.
PROGRESS_FIELDS = ("task", "request", "state", "created", "started", "finished", "cancel", "attempt", "worker", "error",
                   "error_type", "error_subject", "waiting", "waiting_since", "waiting_reason", *_COUNTED)  # fmt: skip
_LONGEST_ID = 255
_LONGEST_SHOWN = 64


def job_key(job_id: str, part: str = "") -> str:
    """Give the key of a job, or of a part of it."""
    return f"{_PREFIX}:job:{job_id}:{part}" if part else f"{_PREFIX}:job:{job_id}"


def transaction_key(transaction_uid: str) -> str:
    """Give the key that holds the job of a storage commitment transaction."""
    return f"{_PREFIX}:commitment:{transaction_uid}"


def checked_job_key(job_id: str) -> str:
    """Give the key of a job whose id comes from a user: any id of a Celery task, but not the name of another key.

    Raises
    ------
    JobNotFoundError
        If no job can have this id.
    """
    if not job_id.isprintable() or len(job_id) > _LONGEST_ID or job_id.rpartition(":")[2] in PARTS:
        raise not_found(job_id)
    return job_key(job_id)


def not_found(job_id: str) -> JobNotFoundError:
    """Make the error for an id that no job has."""
    shown = job_id if len(job_id) < _LONGEST_SHOWN else f"{job_id[:_LONGEST_SHOWN]}..."
    return JobNotFoundError(f"There is no job {shown!r}. Run `pacs-tasks jobs` to list the known jobs.")


def touch(client: redis.Redis, job_id: str, keep: int) -> None:
    """Keep a job for ``keep`` seconds from now."""
    for part in ("", *KEPT):
        client.expire(job_key(job_id, part), keep)
    client.expire(JOBS, keep)


def dump_request(request: AnyRequest | None) -> tuple[str, str]:
    """Write a request without its large field, and that field alone, which few read."""
    if request is None:
        return "", ""
    bulk = request.model_dump_json(include={request.bulk}, exclude_none=True) if request.bulk else ""
    return request.model_dump_json(exclude_none=True, exclude={request.bulk}), bulk


def load_request(job_id: str, task: str, text: str, bulk: str | None) -> AnyRequest:
    """Read a request that :func:`dump_request` wrote; without ``bulk``, its large field is empty.

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
            f"Another version of pacs-tasks wrote the request of job {job_id}. Enqueue it again."
        ) from None


def progress_of(job_id: str, fields: Mapping[str, str | None]) -> Progress:
    """Read the progress of a job from its fields.

    Raises
    ------
    JobNotFoundError
        If the fields are empty.
    """
    task, state, created = fields["task"], fields["state"], fields["created"]
    if task is None or state is None or created is None:
        raise not_found(job_id)
    error, request = _error_of(fields), fields["request"]
    return Progress(
        job_id=job_id,
        task=task,
        state=JobState(state),
        counters=_counters_of(fields),
        created=float(created),
        started=_time(fields["started"]),
        finished=_time(fields["finished"]),
        cancel_requested=fields["cancel"] == "1",
        attempt=int(fields["attempt"] or 1),
        worker=fields["worker"] or "",
        error=error,
        remote=_remote_of(task, request) if request else "",
        waiting_for=fields["waiting"] or "",
        waiting_since=_time(fields["waiting_since"]),
        waiting_reason=fields["waiting_reason"] or "",
    )


def _error_of(fields: Mapping[str, str | None]) -> str:
    """Word the recorded error of a job; empty if there is none."""
    if not fields["error_type"]:
        return ""
    return str(from_record(fields["error_type"], fields["error"] or "", fields["error_subject"] or ""))


def _counters_of(fields: Mapping[str, str | None]) -> Counters:
    return Counters(**{name: int(fields[name] or 0) for name in _COUNTED})


def _time(text: str | None) -> float | None:
    return float(text) if text else None


def _remote_of(task: str, request: str) -> str:
    """Name the remote of a job; empty if another version wrote the request, which must not hide other jobs."""
    try:
        return str(OPERATIONS[task].request.model_validate_json(request, context=BULK_APART).remote)
    except (KeyError, ValidationError):
        return ""
