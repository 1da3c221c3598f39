"""How a job ended, as it is recorded: in its record, or apart once the job is reopened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pacs_tasks.errors import JobCancelledError, PacsTasksError
from pacs_tasks.ledger.keys import ERROR_FIELDS, PROGRESS_FIELDS, job_key, load_error, progress_of
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.outcome import JobState, Outcome, Progress, TransferOutcome
from pacs_tasks.sealing import Sealer

#: The fields of a job that :func:`end_of` reads.
END_FIELDS = (*PROGRESS_FIELDS, "outcome")
#: Before a member of the set of ends: the record of that end, kept by scripts when its job is reopened.
KEPT = "pacs_tasks:webhooks:end:"


class End(NamedTuple):
    """The progress of a job, and what it ended with: its outcome, or the recorded error; None if it has not ended."""

    progress: Progress
    outcome: Outcome | PacsTasksError | None


def member_of(job_id: str, attempt: int) -> str:
    """Give the member of the set of ends that stands for the end of an attempt."""
    return f"{attempt} {job_key(job_id)}"


def end_of(job_id: str, fields: Mapping[str, str | None], sealer: Sealer) -> End:
    """Read how a job ended from the fields :data:`END_FIELDS`: of a transfer without problems and studies."""
    progress = progress_of(job_id, fields, sealer)
    return End(progress, _outcome_of(progress, fields, sealer) if progress.state.finished else None)


def _outcome_of(progress: Progress, fields: Mapping[str, str | None], sealer: Sealer) -> Outcome | PacsTasksError:
    text = fields["outcome"]
    if text is not None:
        return OPERATIONS[progress.task].outcome.model_validate_json(sealer.unseal(text, "outcome"))
    if progress.state is JobState.FAILED:
        return load_error([fields[name] for name in ERROR_FIELDS], sealer)
    if OPERATIONS[progress.task].outcome is not TransferOutcome:
        return JobCancelledError(f"Job {progress.job_id} was cancelled before the remote had answered. Retry it.")
    return TransferOutcome(
        counters=progress.counters,
        earlier=progress.earlier,
        seconds=progress.seconds,
        cancelled=progress.state is JobState.CANCELLED,
    )
