"""The routes of jobs: enqueue, list, show, cancel, retry, resume and verify.

Without the scope ``patients``, a caller sees of jobs states, counts, statuses, times, remotes and reasons.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from pacs_tasks.cli.output.exit_codes import of_error
from pacs_tasks.cli.output.outcomes import view_of
from pacs_tasks.client import Job, PacsClient, job_id_of
from pacs_tasks.errors import InvalidRequestError, JobNotFoundError, PacsTasksError, SealingError, without_comments
from pacs_tasks.fleet.leases import Associations
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.ledger.tokens import Scope
from pacs_tasks.outcome import (
    FindOutcome,
    InstanceCategory,
    InstanceOutcome,
    JobState,
    Outcome,
    Progress,
    TransferOutcome,
)
from pacs_tasks.request import (
    CommitRequest,
    PreflightRequest,
    QueryModel,
    StorePathsRequest,
    VerifyRequest,
    build,
)
from pacs_tasks.serve.access import Caller, Reader, Services, Shared, Submitter
from pacs_tasks.serve.routes.submission import Submission, body_of, schema_of
from pacs_tasks.serve.watch import public

router = APIRouter(prefix="/jobs", tags=["jobs"])

#: Jobs that one request looks at for those that its filter wants.
_EXAMINED = 2_000
_LONGEST_ID = 255
#: Lists of an outcome that have pages of their own.
_PAGED: Mapping[type[Outcome], str] = MappingProxyType({TransferOutcome: "problems", FindOutcome: "matches"})

JobId = Annotated[str, Path(min_length=1, max_length=_LONGEST_ID, description="The id of a job.")]
Limit = Annotated[int, Query(ge=1, le=1_000, description="The most that one page has.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="Any text. The same key of a token gives the same job again for as long as that job is kept.",
    ),
]


class JobPage(BaseModel):
    """Jobs, the newest first. ``next`` is the parameter ``before`` of the next page; None on the last one."""

    jobs: list[Progress]
    next: str | None = None


class InstancePage(BaseModel):
    """Instances that have an outcome, in the order of the job. ``next`` is the parameter ``start`` of the next page."""

    instances: list[InstanceOutcome]
    next: int | None = None


class Fault(BaseModel):
    """The error that ended a job, as ``error`` on the command line with ``--json``."""

    type: str
    message: str
    subject: str = ""


class JobDetail(BaseModel):
    """One job.

    Attributes
    ----------
    request
        With the scope ``patients``; None if it cannot be read.
    outcome
        Once the job has ended with one: its category and counts, and with the scope ``patients`` also its studies.
    error
        Once the job has ended without an outcome, or with one that cannot be decrypted here.
    exit_code
        That of the command line for this end.
    """

    job: Progress
    associations: Associations | None = None
    request: dict[str, Any] | None = None
    outcome: dict[str, Any] | None = None
    error: Fault | None = None
    exit_code: int | None = None


class Verification(BaseModel):
    """How to verify what a job has sent.

    Attributes
    ----------
    commit
        Request storage commitment instead of querying.
    patience
        Seconds to wait for the next report of storage commitment.
    query_model
        The query model without ``commit``.
    """

    model_config = ConfigDict(extra="forbid")

    commit: bool = False
    patience: float | None = Field(default=None, ge=0, le=86_400)
    query_model: QueryModel | None = None


@router.post("", status_code=202, operation_id="enqueue", openapi_extra=schema_of(Submission))
def enqueue(
    submission: Annotated[Submission, Depends(body_of(Submission))],
    caller: Submitter,
    services: Shared,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Progress:
    """Enqueue any operation."""
    key = None if idempotency_key is None else f"http {caller.own(idempotency_key)}"
    known = _paths_of(services.client, key) if submission.upload is not None else ()
    request = submission.to_request(services.settings, services.spool, known)
    job = services.client.enqueue(request, key, requester=caller.name)
    if submission.upload is not None:
        services.spool.note_job(submission.upload, job.id)
    return accepted(job, caller, services, response)


def _paths_of(client: PacsClient, key: str | None) -> Collection[str]:
    """Give the paths of the job of a key: its upload is removed once it has sent everything."""
    if key is not None:
        with suppress(JobNotFoundError):
            request = client.job(job_id_of(key)).request()
            if isinstance(request, StorePathsRequest | PreflightRequest):
                return request.paths
    return ()


@router.get("", operation_id="list_jobs")
def list_jobs(
    caller: Reader,
    services: Shared,
    *,
    state: Annotated[JobState | None, Query(description="Only jobs of this state.")] = None,
    task: Annotated[str | None, Query(max_length=100, description="Only jobs of this task.")] = None,
    remote: Annotated[str | None, Query(max_length=300, description="Only jobs whose remote has this text.")] = None,
    before: Annotated[str, Query(max_length=_LONGEST_ID, description="Only jobs older than this one.")] = "",
    limit: Limit = 50,
) -> JobPage:
    """List jobs, the newest first. A page may have fewer than ``limit`` although there are more: see ``next``."""
    found: list[Progress] = []
    last: str | None = None
    for progress in islice(services.client.ledger.newest(before), _EXAMINED):
        last = progress.job_id
        wanted = state in {None, progress.state} and task in {None, progress.task}
        if wanted and (remote is None or remote.lower() in progress.remote.lower()):
            found.append(_progress_for(caller, services.client, progress))
            if len(found) == limit:
                break
    return JobPage(jobs=found, next=last if _more_after(services, last) else None)


def _more_after(services: Services, last: str | None) -> bool:
    return last is not None and next(services.client.ledger.newest(last), None) is not None


@router.get("/{job_id}", operation_id="show_job")
def show_job(job_id: JobId, caller: Reader, services: Shared) -> JobDetail:
    """Show one job, with its outcome or error once it has ended."""
    return detail_for(caller, services.client, job_id)


@router.get("/{job_id}/instances", operation_id="list_instances")
def list_instances(
    job_id: JobId,
    caller: Reader,
    services: Shared,
    *,
    category: Annotated[list[InstanceCategory] | None, Query(description="Only these categories.")] = None,
    start: Annotated[int, Query(ge=0, le=1 << 31, description="The number of the line to begin with.")] = 0,
    limit: Limit = 100,
) -> InstancePage:
    """List the files or instances of a job that have an outcome."""
    services.client.job(job_id)
    wanted = frozenset(category or InstanceCategory)
    lines = _lines(services, job_id, start, wanted)
    found = list(islice(lines, limit))
    more = next(lines, None)
    shown = [_instance_for(caller, outcome) for _, outcome in found]
    return InstancePage(instances=shown, next=None if more is None else more[0])


def _lines(
    services: Services, job_id: str, start: int, wanted: frozenset[InstanceCategory]
) -> Iterator[tuple[int, InstanceOutcome]]:
    """Read the lines with an outcome of these categories, those that failed without reading the others."""
    ledger = services.client.ledger
    if wanted <= {InstanceCategory.FAILED, InstanceCategory.MISSING, InstanceCategory.SKIPPED}:
        found: Iterator[tuple[int, InstanceOutcome]] = iter(ledger.problems(job_id))
        return ((number, each) for number, each in found if number >= start and each.category in wanted)
    lines = Instances(ledger, job_id).in_order(start)
    return ((each.number, each.outcome) for each in lines if each.outcome and each.outcome.category in wanted)


@router.post("/{job_id}/cancel", status_code=202, operation_id="cancel_job")
def cancel_job(job_id: JobId, caller: Submitter, services: Shared) -> Progress:
    """Cancel a job. What was sent stays sent. It ends when no worker works on it any more."""
    return _progress_for(caller, services.client, services.client.job(job_id).cancel())


@router.post("/{job_id}/retry", status_code=202, operation_id="retry_job")
def retry_job(job_id: JobId, caller: Submitter, services: Shared, response: Response) -> Progress:
    """Continue a job with what failed, is missing or was never begun, and with nothing else."""
    return accepted(services.client.job(job_id).retry(caller.name), caller, services, response)


@router.post("/{job_id}/resume", status_code=202, operation_id="resume_job")
def resume_job(job_id: JobId, caller: Submitter, services: Shared, response: Response) -> Progress:
    """Continue a job with what has no outcome yet."""
    return accepted(services.client.job(job_id).resume(caller.name), caller, services, response)


@router.post("/{job_id}/verify", status_code=202, operation_id="verify_job", openapi_extra=schema_of(Verification))
def verify_job(
    job_id: JobId,
    caller: Submitter,
    services: Shared,
    response: Response,
    how: Annotated[Verification, Depends(body_of(Verification))],
) -> Progress:
    """Enqueue a job that verifies that the PACS holds each instance that another job has sent."""
    request: VerifyRequest | CommitRequest
    if how.commit:
        request = build(CommitRequest, {"job_id": job_id, "patience": how.patience})
    else:
        request = build(VerifyRequest, {"job_id": job_id, "query_model": how.query_model})
    return accepted(services.client.enqueue(request, requester=caller.name), caller, services, response)


def accepted(job: Job, caller: Caller, services: Services, response: Response) -> Progress:
    """Report a job that was enqueued."""
    response.headers["Location"] = f"/jobs/{job.id}"
    return _progress_for(caller, services.client, job.progress())


def _progress_for(caller: Caller, client: PacsClient, progress: Progress) -> Progress:
    """Give the progress of a job as a caller may see it."""
    return progress if caller.may(Scope.PATIENTS) else public(client, progress)


def _instance_for(caller: Caller, instance: InstanceOutcome) -> InstanceOutcome:
    """Give the outcome of an instance as a caller may see it: without the scope ``patients``, what is harmless."""
    if caller.may(Scope.PATIENTS):
        return instance
    status = instance.status and instance.status.model_copy(update={"comment": ""})
    return InstanceOutcome(
        subject="",
        category=instance.category,
        sop_class_uid=instance.sop_class_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        sent_as=instance.sent_as,
        status=status,
        error=instance.error,
        reason=without_comments(instance.reason),
        size=instance.size,
        attempts=instance.attempts,
        begun=instance.begun,
        ended=instance.ended,
        worker=instance.worker,
    )


def detail_for(caller: Caller, client: PacsClient, job_id: str) -> JobDetail:
    """Give everything about one job that a caller may see.

    Raises
    ------
    JobNotFoundError
        If there is none.
    """
    job = client.job(job_id)
    progress = job.progress()
    outcome: Outcome | PacsTasksError | None
    try:
        # Both in one step, since the job may be retried meanwhile. The matches of a query are read page by page.
        progress, outcome = client.ledger.end(job_id)
    except SealingError as error:
        # Without its key, state and counts stay visible.
        outcome = error
    patients = caller.may(Scope.PATIENTS)
    found: dict[str, Any] = {"job": _progress_for(caller, client, progress)}
    if patients:
        # A request that another version wrote, or whose key is missing here, must not hide the rest.
        with suppress(InvalidRequestError, SealingError):
            found["request"] = json.loads(job.request().model_dump_json(exclude_none=True))
    if outcome is None:
        # The remote is not known if another version wrote the request.
        return JobDetail(**found, associations=job.associations() if progress.remote else None)
    if isinstance(outcome, PacsTasksError):
        shown = outcome if patients else outcome.public()
        fault = Fault(type=type(outcome).__name__, message=shown.message, subject=shown.subject)
        return JobDetail(**found, error=fault, exit_code=of_error(outcome))
    view = view_of(progress.task, outcome)
    document = view.document() if patients else json.loads(json.dumps(outcome.summary()))
    document.pop(_PAGED.get(type(outcome), ""), None)
    return JobDetail(**found, outcome=document, exit_code=view.exit_code)
