"""``pacs_tasks.commit``: request storage commitment for the instances that a job has sent (PS3.4 annex J).

The remote accepts the request at once and reports later: on the association of the request, or on one that it opens to
the receiver, which records the report. A report that comes after the end of the job is recorded all the same.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from celery import Task

from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse.commitment import PUSH_MODEL_CONTEXT, await_report, new_transaction_uid, request_commitment
from pacs_tasks.dimse.status import commitment_failure
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck
from pacs_tasks.errors import AssociationRejectedError, JobCancelledError
from pacs_tasks.fleet import receivers
from pacs_tasks.fleet.receivers import Receiver
from pacs_tasks.ledger.commitments import Commitments, record_report
from pacs_tasks.outcome import StatusCategory
from pacs_tasks.outcome.verification import CommitmentReport, CommitmentState, CommitOutcome
from pacs_tasks.request import CommitRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.associations import kept_association
from pacs_tasks.tasks.engine.base import JobTask, ledger, local_ae, register
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.job import answer
from pacs_tasks.tasks.verify.tasks import instances_sent

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
        try:
            as_receiver = request.model_copy(update={"local": local})
            with kept_association(as_receiver, [PUSH_MODEL_CONTEXT], self._claim) as assoc:
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
        counts, problems = self._commitments.totals(self._transactions)
        return CommitOutcome(
            committed=counts[CommitmentState.COMMITTED],
            failed=counts[CommitmentState.FAILED],
            pending=counts[CommitmentState.PENDING],
            problems=tuple(problems),
            receiver=str(self._receiver or ""),
            seconds=time.monotonic() - started,
        )

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


def _work(request: CommitRequest, claim: Claim) -> CommitOutcome:
    instances_sent(request.job_id)
    return _Committing(request, claim).run()


@register(CommitRequest.task, base=JobTask)
def commit(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Request storage commitment for the instances that a job has sent (N-ACTION)."""
    return answer(self, request, CommitRequest, _work)
