"""How a job ended, as it is recorded: in its record, or apart once the job is reopened; and what follows its task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, cast

from pacs_tasks.errors import JobCancelledError, PacsTasksError
from pacs_tasks.ledger.keys import CALLERS, PROGRESS_FIELDS, job_key, load_error, progress_of
from pacs_tasks.ledger.seals import Seals
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.outcome import GetOutcome, InstanceCategory, JobState, MoveOutcome, Outcome, Progress, TransferOutcome
from pacs_tasks.sealing import Sealer

if TYPE_CHECKING:
    import redis

#: The fields of a job that :func:`end_of` reads.
END_FIELDS = (*PROGRESS_FIELDS, "outcome")
#: The categories of instances that went over the wire.
MOVED = (InstanceCategory.SUCCESS, InstanceCategory.WARNING)
#: Before a member of the set of ends: the record of that end, kept by scripts when its job is reopened.
KEPT = "pacs_tasks:webhooks:end:"
#: Seconds until the end of a job is published again if Celery still does not have it.
_PUBLISH_AGAIN = 60


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
        return load_error(fields, sealer)
    if OPERATIONS[progress.task].outcome is not TransferOutcome:
        return JobCancelledError(f"Job {progress.job_id} was cancelled before the remote had answered. Retry it.")
    return TransferOutcome(
        counters=progress.counters,
        earlier=progress.earlier,
        seconds=progress.seconds,
        cancelled=progress.state is JobState.CANCELLED,
    )


def counted(outcome: Outcome) -> dict[str, str | int]:
    """Count the instances of an outcome that is the only one of its job, for those who watch the fleet."""
    found: dict[str, str | int] = {"category": outcome.category.value}
    if isinstance(outcome, GetOutcome):
        received = [each for each in outcome.instances if each.category in MOVED]
        found |= Counter(each.category.value for each in received)
        found |= {"bytes": sum(each.size for each in received), "failed": outcome.suboperations.failed}
    elif isinstance(outcome, MoveOutcome):
        done = outcome.suboperations
        found |= {"success": done.completed, "warning": done.warning, "failed": done.failed}
    return found


class Callers:
    """What follows the tasks that other services published: callbacks, the rest of a chain, a group, a chord, as text.

    Only the first message of a task contains it. A job whose message was lost, or which waited for its remote, goes on
    with a message of ours. So it is recorded until Celery has the end of the task.
    """

    def __init__(self, client: redis.Redis, seals: Seals) -> None:
        self._redis, self._seals = client, seals

    def follows(self, job_id: str) -> str | None:
        """Read what follows the task of a job; None if another service did not publish it or already has its end."""
        text = cast("str | None", self._redis.hget(CALLERS, job_id))
        return self._seals.of(job_id).unseal(text, "follows") if text else text

    def waiting(self) -> list[str]:
        """Read the ids of the jobs whose end Celery does not have yet."""
        return cast("list[str]", self._redis.hkeys(CALLERS))

    def begin_publishing(self, job_id: str) -> bool:
        """Return whether the end of a job may be published now; only one worker a minute does so."""
        return bool(self._redis.set(job_key(job_id, "ending"), 1, nx=True, ex=_PUBLISH_AGAIN))

    def forget(self, job_id: str) -> None:
        """Celery has the end of the task, or the record of the job has expired."""
        self._redis.hdel(CALLERS, job_id)
