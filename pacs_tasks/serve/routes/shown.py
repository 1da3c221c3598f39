"""What a caller sees of jobs. Without the scope ``patients``: states, counts, statuses, times, remotes and reasons."""

import contextlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from pacs_tasks.cli.output.exit_codes import of_error
from pacs_tasks.cli.output.outcomes import view_of
from pacs_tasks.client import PacsClient
from pacs_tasks.errors import InvalidRequestError, PacsTasksError, SealingError, without_comments
from pacs_tasks.fleet.leases import Associations
from pacs_tasks.ledger.tokens import Scope
from pacs_tasks.outcome import FindOutcome, InstanceOutcome, Outcome, Progress, TransferOutcome
from pacs_tasks.serve.access import Caller
from pacs_tasks.serve.watch import public

#: Lists of an outcome that the API gives page by page elsewhere.
_PAGED: Mapping[type[Outcome], str] = MappingProxyType({TransferOutcome: "problems", FindOutcome: "matches"})


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


def progress_for(caller: Caller, client: PacsClient, progress: Progress) -> Progress:
    """Give the progress of a job as a caller may see it."""
    return progress if caller.may(Scope.PATIENTS) else public(client, progress)


def instance_for(caller: Caller, instance: InstanceOutcome) -> InstanceOutcome:
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
    found: dict[str, Any] = {"job": progress_for(caller, client, progress)}
    if patients:
        # A request that another version wrote, or whose key is missing here, must not hide the rest.
        with contextlib.suppress(InvalidRequestError, SealingError):
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
