"""The planner of a job that has many outcomes: it writes the manifest, and hands out the parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from celery import Task

from pacs_tasks.errors import PacsTasksError
from pacs_tasks.ledger.manifest import Entry
from pacs_tasks.ledger.studies import Study
from pacs_tasks.outcome import InstanceOutcome
from pacs_tasks.request import R
from pacs_tasks.tasks.engine.base import accept, conclude, errors_recorded, ledger
from pacs_tasks.tasks.engine.claim import Claim, claimed


class Promise(NamedTuple):
    """What is to be sent or fetched: lines as :meth:`pacs_tasks.ledger.manifest.Manifest.plan` has them.

    ``unfound`` are the lines of its tail, by index, and why there is nothing to fetch for each.
    """

    entries: Sequence[Entry]
    studies: Sequence[Study] = ()
    unfound: Sequence[tuple[int, PacsTasksError]] = ()


def plan(
    task: Task,
    payload: Mapping[str, Any] | None,
    request_type: type[R],
    promise: Callable[[R, Claim], Promise],
    parts: Callable[[R, str], None],
    *,
    promise_again: Callable[[R, Claim], Promise | None] = lambda _, __: None,
) -> dict[str, Any]:
    """Serve the planner's task.

    Parameters
    ----------
    promise
        What is to be sent or fetched. It is called once in the life of a job.
    promise_again
        What stands in place of the tail when the job is taken up again; nothing leaves it as it is.
    parts
        Given the request and the job's id, sees to what has no outcome yet, here or by replacing the task by a chord.
    """
    job_id = task.request.id
    with errors_recorded(task):
        request = accept(task, payload, request_type)
        if request is None:
            return conclude(job_id)
        with claimed(task, ledger(), job_id, "plan") as claim:
            claim.check_deaths()
            if not ledger().manifest.planned(job_id):
                promised = promise(request, claim)
                tail = len(promised.unfound)
                ledger().manifest.plan(job_id, promised.entries, claim.owner, promised.studies, tail)
                _record_unfound(task, promised)
            elif (promised_now := promise_again(request, claim)) is not None:
                tail = len(promised_now.unfound)
                ledger().manifest.replan(job_id, promised_now.entries, claim.owner, promised_now.studies, tail)
                _record_unfound(task, promised_now)
        if ledger().progress(job_id).state.finished:
            return conclude(job_id)
        parts(request, job_id)
        return conclude(job_id)


def _record_unfound(task: Task, promised: Promise) -> None:
    """Record the tail: there is nothing to fetch for it."""
    worker = task.request.hostname
    tail = promised.entries[len(promised.entries) - len(promised.unfound) :]
    for entry, (index, error) in zip(tail, promised.unfound, strict=True):
        outcome = InstanceOutcome.unanswered(entry[0], error).model_copy(update={"worker": worker})
        ledger().record(task.request.id, index, outcome)
