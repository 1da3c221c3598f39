"""The tasks that verify what a job has sent: by C-FIND, and by storage commitment (PS3.4 annex J).

For storage commitment, the remote accepts the request at once and reports later: on the association of the request, or
on one that it opens to the receiver, which records the report. A report after the end of the job is recorded too.
"""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple

from celery import Task

from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse.commitment import PUSH_MODEL_CONTEXT, await_report, new_transaction_uid, request_commitment
from pacs_tasks.dimse.status import commitment_failure
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck
from pacs_tasks.errors import AssociationRejectedError, InvalidRequestError, JobCancelledError
from pacs_tasks.fleet import receivers
from pacs_tasks.fleet.receivers import Receiver
from pacs_tasks.ledger.commitments import Commitments, record_report
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, StatusCategory
from pacs_tasks.outcome.verification import CommitmentReport, CommitmentState, CommitOutcome, VerifyOutcome
from pacs_tasks.request import CommitRequest, VerifyRequest
from pacs_tasks.request.store import SENDING
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.associations import kept_association
from pacs_tasks.tasks.engine.base import JobTask, ledger, local_ae, register
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.job import answer
from pacs_tasks.tasks.expected import expecting_call
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
    inquiry = Inquiry(request, request.remote, claim.job_id, claim, request.query_model)
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


#: Instances of one transaction: some remotes accept no more.
MOST_REFERENCES = 500
#: Seconds that the association stays open for a report if the remote may also report to a receiver: some remotes begin
#: when it is released.
_LINGER = 10.0
#: Seconds between two reads of the record.
_POLL = 0.25


class _Committing:
    """One request for commitment, in as many transactions as its size needs."""

    def __init__(self, request: CommitRequest, claim: Claim) -> None:
        self._request, self._claim = request, claim
        self._commitments = Commitments(ledger(), request.job_id)
        self._receiver = _receiver(local_ae(request))
        self._transactions: list[str] = []
        self._patience = settings().commit_timeout if request.patience is None else request.patience
        #: When the last request was sent, and when the last report came.
        self._requested = self._reported = 0.0
        self._open: set[str] = set()

    def run(self) -> CommitOutcome:
        started, request = time.monotonic(), self._request
        local = local_ae(request)
        if self._receiver is not None:
            # The remote reports to the AE that it knows under the calling AE title.
            local = local.model_copy(update={"ae_title": self._receiver.ae_title})
        with expecting_call(self._claim, request.remote, self._reports_later):
            self._exchange(local)
        counts, problems = self._commitments.totals(self._transactions)
        return CommitOutcome(
            committed=counts[CommitmentState.COMMITTED],
            failed=counts[CommitmentState.FAILED],
            pending=counts[CommitmentState.PENDING],
            problems=tuple(problems),
            receiver=str(self._receiver or ""),
            seconds=time.monotonic() - started,
        )

    def _reports_later(self) -> float:
        """Seconds for which the remote may still report to a receiver."""
        pending = self._receiver is not None and self._commitments.unanswered(self._transactions)
        return settings().keep_jobs if pending else 0.0

    def _exchange(self, local: LocalAE) -> None:
        """Request commitment, and wait for the reports."""
        try:
            as_receiver = self._request.model_copy(update={"local": local})
            with kept_association(as_receiver, self._claim.job_id, [PUSH_MODEL_CONTEXT], self._claim) as assoc:
                self._send_requests(assoc)
                self._listen(assoc)
                # It is not kept for other tasks: a report that still comes on it would be lost.
                assoc.release()
        except AssociationRejectedError as error:
            raise AssociationRejectedError(
                f"{error.message} Storage commitment is requested as {local.ae_title}, to which the PACS reports."
            ) from None
        if self._receiver is not None:
            self._await_receiver()

    def _send_requests(self, assoc: Association) -> None:
        for group in self._commitments.groups(MOST_REFERENCES):
            _check(self._claim)
            uid = new_transaction_uid()
            # Two files may hold the same instance.
            references = dict.fromkeys((each.sop_class_uid, each.sop_instance_uid) for _, each in group.members)
            self._commitments.begin(uid, group.transaction(str(self._request.remote)))
            self._transactions.append(uid)
            status = request_commitment(assoc, uid, list(references), self._record)
            if status.category not in {StatusCategory.SUCCESS, StatusCategory.WARNING}:
                self._commitments.reject(
                    uid, f"{self._request.remote} did not accept the request ({status}). Ask its administrator."
                )
        self._requested = self._reported = time.monotonic()

    def _listen(self, assoc: Association) -> None:
        """Receive reports on the association while it is of use."""
        while pause := self._pause():
            if self._receiver is not None and time.monotonic() - self._requested >= _LINGER:
                return
            # The check also renews the lease of the association.
            _check(assoc.stop or self._claim)
            if not await_report(assoc, pause, self._record):
                return

    def _await_receiver(self) -> None:
        """Wait for reports that the receiver records."""
        clock = threading.Event()
        while pause := self._pause():
            _check(self._claim)
            clock.wait(pause)

    def _pause(self) -> float:
        """Seconds to wait now; 0 when every transaction is answered, or none has been for too long."""
        now, waiting = time.monotonic(), self._commitments.unanswered(self._transactions)
        if waiting != self._open:
            self._open, self._reported = waiting, now
        return min(_POLL, max(self._patience - (now - self._reported), 0.0)) if waiting else 0.0

    def _record(self, report: CommitmentReport) -> bool:
        return record_report(ledger(), report, commitment_failure)


def _check(stop: StopCheck) -> None:
    if stop():
        raise JobCancelledError(
            "The job was cancelled before the PACS had reported. A later report is recorded all the same."
        )


def _receiver(local: LocalAE) -> Receiver | None:
    """The receiver to which a remote may report: the one with our own AE title, or any that runs."""
    known = receivers.running(ledger().client)
    return next((each for each in known if each.ae_title == local.ae_title), known[0] if known else None)


def _request_commitment(request: CommitRequest, claim: Claim) -> CommitOutcome:
    instances_sent(request.job_id)
    return _Committing(request, claim).run()


@register(CommitRequest.task, base=JobTask)
def commit(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Request storage commitment for the instances that a job has sent (N-ACTION)."""
    return answer(self, request, CommitRequest, _request_commitment)
