"""``pacs_tasks.verify``: check that a remote lists the instances that a job has sent."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from celery import Task

from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.outcome.verification import VerifyOutcome
from pacs_tasks.request import VerifyRequest
from pacs_tasks.request.store import SENDING
from pacs_tasks.tasks.engine.base import JobTask, ledger, register
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.job import answer
from pacs_tasks.tasks.verify.inventory import Inquiry, Series


def instances_sent(job_id: str) -> Instances:
    """The instances of a job that sends.

    Raises
    ------
    JobNotFoundError
        If there is no such job.
    InvalidRequestError
        If the job does not send, has not ended, or has sent nothing.
    """
    progress = ledger().progress(job_id)
    if progress.task not in SENDING:
        raise InvalidRequestError(f"Job {job_id} does not send. Name a job of send, send-file or send-dir.")
    if not progress.state.finished:
        raise InvalidRequestError(f"Job {job_id} is still {progress.state}. Wait for its end.")
    if not progress.counters.done:
        raise InvalidRequestError(f"Job {job_id} has sent nothing. Name a job that has sent instances.")
    return Instances(ledger(), job_id)


class _Member(NamedTuple):
    """A line of the manifest for an instance."""

    line: int
    sop_class_uid: str


class _Series(Series):
    """The instances of one series that were sent."""

    def __init__(self, study_uid: str, series_uid: str) -> None:
        super().__init__(study_uid, series_uid)
        self.members: dict[str, list[_Member]] = {}

    def add(self, sop_instance_uid: str, member: _Member) -> None:
        self.wanted.add(sop_instance_uid)
        self.members.setdefault(sop_instance_uid, []).append(member)


def _by_series(instances: Instances) -> list[_Series]:
    """The instances by series; of each, only the values that the query needs."""
    found: dict[tuple[str, str], _Series] = {}
    classes: dict[str, str] = {}
    for index, outcome in instances.transferred():
        pair = outcome.study_uid, outcome.series_uid
        series = found.get(pair) or found.setdefault(pair, _Series(*pair))
        sop_class = classes.setdefault(outcome.sop_class_uid, outcome.sop_class_uid)
        series.add(outcome.sop_instance_uid, _Member(index, sop_class))
    return list(found.values())


def _problems(request: VerifyRequest, instances: Instances, series: list[_Series]) -> tuple[InstanceOutcome, ...]:
    """The missing and unknown instances by name, in the order of the manifest."""
    missing = f"{request.remote} does not list this instance. Send it again."
    found: list[tuple[_Member, str, InstanceCategory, str]] = []
    for each in series:
        for uid in each.missing:
            found += [(member, uid, InstanceCategory.MISSING, missing) for member in each.members[uid]]
        for uid, reason in each.unknown.items():
            found += [(member, uid, InstanceCategory.FAILED, reason) for member in each.members[uid]]
    subjects = instances.subjects(member.line for member, *_ in found)
    return tuple(
        InstanceOutcome(
            subject=subjects[member.line],
            category=category,
            sop_class_uid=member.sop_class_uid,
            sop_instance_uid=uid,
            reason=reason,
        )
        for member, uid, category, reason in sorted(found)
    )


def _work(request: VerifyRequest, claim: Claim) -> VerifyOutcome:
    started = time.monotonic()
    instances = instances_sent(request.job_id)
    series = _by_series(instances)
    inquiry = Inquiry(request, request.remote, claim)
    inquiry.find(series)
    problems = _problems(request, instances, series)
    missing = sum(each.category is InstanceCategory.MISSING for each in problems)
    total = sum(len(members) for each in series for members in each.members.values())
    return VerifyOutcome(
        held=total - len(problems),
        missing=missing,
        unknown=len(problems) - missing,
        problems=problems,
        queries=inquiry.queries,
        seconds=time.monotonic() - started,
    )


@register(VerifyRequest.task, base=JobTask)
def verify(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Check that a remote lists the instances that a job has sent (C-FIND)."""
    return answer(self, request, VerifyRequest, _work)
